"""A facts format of one's own: where a record keeps what an edit request needs."""

from editgym.data.fact_formats import FactFormat, Questions

FACTS = FactFormat(
    about="my corrections",
    required=("who", "ask", "say"),
    subject="who",
    prompt="ask",
    target="say",
    rephrases=("again",),
    near=Questions("others"),
)
