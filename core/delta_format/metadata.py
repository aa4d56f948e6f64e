"""The keys of a delta file's metadata: diffusers' own, those of Stability's ModelSpec 1.0, and ours."""

ADAPTER_SETTINGS = "lora_adapter_metadata"  # JSON; diffusers' name for it

MODELSPEC_VERSION = "modelspec.sai_model_spec"
ARCHITECTURE = "modelspec.architecture"
IMPLEMENTATION = "modelspec.implementation"
TITLE = "modelspec.title"
DESCRIPTION = "modelspec.description"
USAGE_HINT = "modelspec.usage_hint"
TAGS = "modelspec.tags"
TENSORS_SHA256 = "modelspec.hash_sha256"

FORMAT = "concept_erasure.format"
KIND = "concept_erasure.delta_kind"  # sparse_mask; a LoRA has none
CONCEPTS = "concept_erasure.concepts"  # JSON, as a spec has them
METHOD = "concept_erasure.method"  # JSON, as a spec has it
PRESERVE = "concept_erasure.preserve"
SEED = "concept_erasure.seed"
BASE_MODEL = "concept_erasure.base_model"
BASE_SHA256 = "concept_erasure.base_sha256"
RESIDUAL = "concept_erasure.residual"
RECOVERY = "concept_erasure.recovery"  # of a hide job
STACK = "concept_erasure.stack"  # JSON: the erasures of a stack, oldest first
