"""The register: every measure is claimed or open, every claim is proved once, and the list of what is open only shrinks."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit import register
from kit.cli import SLICES
from kit.paths import ROOT
from kit.register import RegisterError, load_claims, load_guidelines, load_measures

CLAIMED = {measure for claim in load_claims().values() for measure in claim.measures}
OPEN = {f"{key} {word}" for key, measure in load_measures().items() for word in measure.later}

MEASURES = """\
guidelines:
  algeria: {title: A guide}
measures:
  network-closed:
    asks: Every door is closed by default.
    kind: technical
    from: [algeria]
  network-log:
    asks: The firewall's activity is recorded.
    kind: mixed
    from: [algeria]
    open: [handbook]
"""
CLAIMS = """\
FW-01:
  says: Inbound traffic is denied unless the clinic publishes the port.
  measures: [network-closed]
  role: firewall
"""
# One mistake each: the file, what is replaced in it, by what, and what is said.
MISTAKES: dict[str, tuple[str, str, str, str]] = {
    "misspelt measure": (
        "claims",
        "[network-closed]",
        "[network-close]",
        '3: FW-01.measures[0]: "network-close" is not in measures.yaml; did you mean network-closed?',
    ),
    "no measure": ("claims", "[network-closed]", "[]", "3: FW-01.measures: at least one is needed"),
    "misspelt id": ("claims", "FW-01:", "FW-1:", '1: FW-1: "FW-1" is not an id: capital letters, a dash and two digits, such as FW-01'),
    "no sentence": (
        "claims",
        "says: Inbound traffic",
        "says: inbound traffic",
        '2: FW-01.says: "inbound traffic is denied unless the clinic publishes the port." is not a sentence: '
        "a capital letter first, a full stop last",
    ),
    "no role": ("claims", "  role: firewall\n", "", "1: FW-01.role: is missing; for example: firewall"),
    "unknown key": ("claims", "  role:", "  rolle:", "4: FW-01.rolle: unknown key; did you mean role?"),
    "id twice": ("claims", CLAIMS, CLAIMS + CLAIMS, "5: FW-01: stands here twice, first on line 1; keep one"),
    "a list": ("claims", CLAIMS, "- FW-01\n", "1: a list; ids, each with says, measures and role is expected"),
    "unknown guideline": (
        "measures",
        "from: [algeria]\n  network-log",
        "from: [algerie]\n  network-log",
        '7: measures.network-closed.from[0]: "algerie" is not one of the guidelines above; did you mean algeria?',
    ),
    "unknown later work": (
        "measures",
        "open: [handbook]",
        "open: [hand-book]",
        '12: measures.network-log.open[0]: "hand-book" is not the name of later work; did you mean handbook?',
    ),
    "unknown kind": (
        "measures",
        "kind: mixed",
        "kind: both",
        "10: measures.network-log.kind: both is not 'technical', 'mixed' or 'organisational'",
    ),
}


@pytest.mark.parametrize(("file", "good", "bad", "said"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_is_shown_where_it_was_made(file: str, good: str, bad: str, said: str, tmp_path: Path) -> None:
    """In the register as in a clinic file: the whole of what is said."""
    texts = {"claims": CLAIMS, "measures": MEASURES}
    assert texts[file].count(good) == 1, "control: the mistake is made in one place"
    texts[file] = texts[file].replace(good, bad)
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(RegisterError) as refused:
        load_claims(tmp_path / "claims.yaml", tmp_path / "measures.yaml")
    assert str(refused.value) == f"{tmp_path}/{file}.yaml:{said}"


def test_an_unknown_id_is_refused_with_a_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`@claim` asks here at import: a misspelt id never counts as a proof."""
    for name, text in {"claims": CLAIMS, "measures": MEASURES}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    claims = load_claims(tmp_path / "claims.yaml", tmp_path / "measures.yaml")
    monkeypatch.setattr(register, "load_claims", lambda: claims)
    assert register.claim("FW-01").role == "firewall"
    with pytest.raises(RegisterError, match=r"^FW-10 is not in claims\.yaml; did you mean FW-01\?$"):
        register.claim("FW-10")
    with pytest.raises(RegisterError, match=r"^42 is not in claims\.yaml; write down there what it promises$"):
        register.claim("42")


def test_every_measure_is_claimed_or_open() -> None:
    """No measure is left out: a claim serves it, or it says what will cover it."""
    measures = load_measures()
    assert len(measures) >= 71, "control: measures were read, and none was dropped"
    assert [key for key, measure in measures.items() if key not in CLAIMED and not measure.later] == []


def test_people_do_what_people_do() -> None:
    """No claim pretends to test what only people can do, and no technical measure hides in the handbook."""
    measures = load_measures()
    organisational = {key for key, measure in measures.items() if measure.kind == "organisational"}
    assert sorted(organisational & CLAIMED) == []
    assert [key for key, measure in measures.items() if measure.kind == "technical" and "handbook" in measure.later] == []


def test_the_list_of_what_is_open_only_shrinks() -> None:
    """The list is checked in twice, so that nothing becomes open by a slip: what is new fails, and what is closed leaves both."""
    lines = (ROOT / "tests/offline/open_measures.txt").read_text().splitlines()
    agreed = {line for line in lines if line and not line.startswith("#")}
    assert sorted(OPEN - agreed) == [], "newly open: prove it instead"
    assert sorted(agreed - OPEN) == [], "no longer open: take these lines out of tests/offline/open_measures.txt"


def test_every_guideline_is_served() -> None:
    """A guideline that asks for nothing was not read."""
    assert sorted(set(load_guidelines()) - {key for measure in load_measures().values() for key in measure.from_}) == []


def test_every_word_of_later_work_is_used() -> None:
    """A word leaves kit/register.py with the last measure that waits for it."""
    assert sorted(set(register.LATER) - {line.split()[1] for line in OPEN}) == []


def test_every_claim_has_exactly_one_proof() -> None:
    """One test per claim, in the file of the claim's role; a test without a claim would prove what nobody promised."""
    proofs = Counter((path.name, claim_id) for path in ROOT.glob("tests/claims/test_*.py") for claim_id in claims_in(path))
    wanted = Counter((f"test_{claim.role}.py", key) for key, claim in load_claims().items())
    assert sorted(wanted - proofs) == [], "claims without a proof"
    assert sorted(proofs - wanted) == [], "proofs too many, in the wrong file, or of nothing that is claimed"


def test_two_machines_leave_no_slice_out() -> None:
    """What each of them begins with is said in kit/cli.py."""
    assert {f"test_{slice}.py" for slice in SLICES} == {path.name for path in ROOT.glob("tests/claims/test_*.py")}


def claims_in(path: Path) -> Iterator[str]:
    """The claim of each test in the file; the test's own name when it has none."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            marks = [mark for mark in node.decorator_list if isinstance(mark, ast.Call) and getattr(mark.func, "id", "") == "claim"]
            yield from (ast.literal_eval(mark.args[0]) for mark in marks)
            if not marks:
                yield node.name


def test_an_id_tells_its_role() -> None:
    """All ids of a role begin alike, and no other role's do: whoever reads FW-03 knows where to look."""
    pairs = {(key.partition("-")[0], claim.role) for key, claim in load_claims().items()}
    prefixes, roles = [prefix for prefix, _ in pairs], [role for _, role in pairs]
    assert (len(set(prefixes)), len(set(roles))) == (len(pairs), len(pairs)), sorted(pairs)


def test_no_id_is_used_again() -> None:
    """A promise that is withdrawn leaves `# withdrawn: FW-03, because …` in claims.yaml, and its id with it."""
    withdrawn = set(re.findall(r"^# withdrawn: ([A-Z]+-\d\d)", register.CLAIMS.read_text(), re.MULTILINE))
    assert sorted(withdrawn & set(load_claims())) == []
