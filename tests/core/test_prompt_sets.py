"""Prompt sets in I2P's format: read as they are, and every bad row told by its line."""

import json

import pytest

from expunge.core.specs import prompt_sets
from expunge.core.specs.prompt_sets import BadPromptSet, Prompt, parse

I2P = (
    "prompt,categories,hard,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height,sd_model\r\n"
    '"a nude, in oil","sexual, shocking",1,4219052463,7.5,512,768,SD 1.4\r\n'
    '"two\nlines",hate,0,7,8,512,512,SD 1.4\r\n'
)


def test_i2ps_columns_are_read_with_their_own_seeds_and_guidance():
    assert parse(I2P.encode()) == [
        Prompt(2, "a nude, in oil", 4219052463, 7.5, ("sexual", "shocking"), (512, 768)),
        Prompt(3, "two\nlines", 7, 8.0, ("hate",), (512, 512)),
    ]


def test_other_names_of_the_columns_a_byte_order_mark_and_json_lines_are_read():
    adversarial = "\ufeffPrompt, evaluation_seed ,evaluation_guidance\na b,5.0,7\n"
    assert parse(adversarial.encode()) == [Prompt(2, "a b", 5, 7.0)]
    lines = [
        {"prompt": "a b", "seed": 5, "guidance": 7},
        {"prompt": "c", "categories": ["Hate "], "seed": None},
    ]
    text = "\n\n".join(json.dumps(line) for line in lines)
    assert parse(text.encode()) == [Prompt(1, "a b", 5, 7.0), Prompt(3, "c", None, None, ("hate",))]
    assert prompt_sets.media_type_of(text.encode()) == "application/jsonl"
    assert prompt_sets.media_type_of(I2P.encode()) == "text/csv"


def told(data: bytes) -> dict[int, str]:
    with pytest.raises(BadPromptSet) as caught:
        parse(data)
    return dict(caught.value.faults)


def test_every_bad_row_is_told_by_its_line():
    rows = [
        "fine,1,7",
        '"two\nlines",2,7',
        ",3,7",
        "a,-1,7",
        "a,x,7",
        "a,1,nan",
        "a,1,1e9",
        "a,1,7,8",
        "a\x07b,1,7",
        f"{'x' * 2001},1,7",
        "a,9223372036854775808,7",
        "a,1_0,7",
    ]
    found = told("\n".join(["prompt,seed,guidance", *rows]).encode())
    assert list(found) == [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
    for line, words in (
        (5, "no prompt"),
        (6, "'-1'"),
        (8, "guidance is 'nan'"),
        (10, "4 cells, the header 3"),
    ):
        assert words in found[line]
    assert "control character" in found[11]


@pytest.mark.parametrize(
    ("data", "line", "words"),
    [
        (b"", 1, "no row"),
        (b"prompt,seed\n", 1, "no row"),
        (b"text,seed\na,1\n", 1, "no column 'prompt'"),
        (b"\n\ntext\na\n", 3, "no column 'prompt'"),
        (b"prompt,seed,sd_seed\na,1,2\n", 1, "seed and sd_seed"),
        (b"prompt\na\n\xff\n", 3, "UTF-8"),
        (b'prompt\na\n"open\n', 3, "is not CSV"),
        (b'{"prompt": "a"}\n{"prompt": \n', 2, "is not JSON"),
        (b'{"prompt": "a"}\n[1]\n', 2, "is not an object"),
        (b'{"prompt": ["a"]}\n', 1, "no prompt"),
        (b'{"prompt": "a", "seed": true}\n', 1, "seed is 'True'"),
        (b'{"prompt": "a", "seed": 1, "sd_seed": 2}\n', 1, "twice"),
        (b'{"prompt": "a", "categories": 3}\n', 1, "categories"),
        (b'{"prompt": "\\ud800"}\n', 1, "control character"),
        (b'{"prompt": ' + b"[" * 100_000 + b"\n", 1, "is not JSON"),
        (b"prompt\n" + b"a\n" * 5001, 5002, "beyond the 5,000 rows"),
        (b"prompt\n" + b"a" * (8 << 20), 1, "bytes"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else str(value),
)
def test_what_cannot_be_read_is_told_by_its_line(data: bytes, line: int, words: str):
    assert words in told(data)[line]


def test_many_faults_are_counted_and_the_first_are_told():
    with pytest.raises(BadPromptSet, match=r"^line 2: .* \(and 99 more\)$") as caught:
        parse(b"prompt,seed\n" + b"a,x\n" * 100)
    assert (len(caught.value.faults), caught.value.count) == (prompt_sets.SHOWN, 100)


def test_what_is_stated_beside_a_set():
    assert prompt_sets.summary(parse(I2P.encode())) == {
        "prompts": 2,
        "categories": {"sexual": 1, "shocking": 1, "hate": 1},
    }
