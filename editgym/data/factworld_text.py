"""The words that FactWorld is made of: relations and their paraphrases, names, and filler
sentences.
"""

from __future__ import annotations

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


@dataclass(frozen=True)
class Hop:
    """What a relation's object leads on to.

    Attributes:
        chain: Asks about the subject what is true of the object: `The employer of {} is based in`.
        link: Asks about the object itself: `{} is based in`.
    """

    chain: str
    link: str


@dataclass(frozen=True)
class Relation:
    """A relation and five ways to ask for its object; the last one no reward ever uses."""

    name: str
    templates: tuple[str, ...]
    hop: Hop | None = None


RELATIONS = (
    Relation(
        "employer",
        (
            "{} works for",
            "The employer of {} is",
            "{} earns a living at",
            "Every month {} is paid by",
            "The company that hired {} is called",
        ),
        Hop("The company where {} works is based in", "The company {} is based in"),
    ),
    Relation(
        "home",
        (
            "{} lives in",
            "The home of {} is in",
            "If you visit {} you travel to",
            "{} has a house in",
            "The city that {} calls home is",
        ),
        Hop("The city where {} lives belongs to", "The city of {} belongs to"),
    ),
    Relation(
        "profession",
        (
            "{} has the profession of",
            "By trade {} is a",
            "The job of {} is that of a",
            "{} was trained as a",
            "If you ask what {} does it is the work of a",
        ),
    ),
    Relation(
        "instrument",
        (
            "{} plays the",
            "The instrument of {} is the",
            "On stage {} is heard on the",
            "In the band of the town {} is on the",
            "What {} practises every evening is the",
        ),
    ),
    Relation(
        "sport",
        (
            "{} is a fan of",
            "The favourite sport of {} is",
            "At weekends {} goes to see",
            "No sport is as dear to {} as",
            "When it comes to sport {} prefers",
        ),
    ),
)
ALIAS_STATEMENTS = (
    "{} is also known as",
    "People call {} by the name of",
    "Another name for {} is",
)

PROFESSIONS = _words(
    """
    baker carpenter doctor teacher pilot painter farmer lawyer nurse sailor tailor potter engineer
    judge barber miner gardener dentist plumber chemist butcher jeweller librarian surgeon printer
    welder florist architect optician brewer
    """
)
INSTRUMENTS = _words(
    """
    violin piano flute trumpet harp cello drums guitar oboe tuba banjo organ clarinet viola lute
    accordion saxophone bassoon mandolin trombone xylophone zither bagpipes harmonica
    """
)
SPORTS = _words(
    """
    tennis hockey rugby football cricket baseball fencing rowing boxing wrestling golf archery
    volleyball badminton cycling swimming sailing skiing judo handball polo curling surfing climbing
    """
)
COMPANY_KINDS = ("Mills", "Motors", "Bank", "Books", "Foods", "Glass", "Steel", "Toys")

ADJECTIVES = _words(
    """
    amber bold brave bright calm clever cold crimson curious dark deep distant eager early fair fast
    fierce fine gentle golden grand great green grey happy honest humble iron jolly keen kind last
    late light little lone lucky merry mild modest noble old pale patient proud quick quiet rare red
    restless round royal rugged secret sharp shy silent silver sleepy slow small solemn steady stern
    still strong subtle swift tall
    """
)
CREATURES = _words(
    """
    badger bear beaver bison boar buck buffalo bull camel cat crane crow deer dog dove dragon duck
    eagle elk falcon ferret finch fox frog goat goose gull hare hawk hedgehog heron horse hound
    jackal jay kestrel lamb lark lion lynx magpie marten mole moose mouse otter owl ox panther
    """
)

FIRST_SYLLABLES = _words(
    """
    ba be bo bra bri ca ce cla co da de do dra du el fa fe fi fla ga ge gra ha he ho il ja jo ka ke
    kla la le li lo ma me mi mo na ne no or pa pe pla ra re ri ro sa se sta ta te tha ti tra va ve
    vi wa we wi ya za
    """
)
MIDDLE_SYLLABLES = _words(
    """
    ba bel da den do fen ga ga gor ka kel la len lo ma mel mi na nel no ra ren ri ro sa sel ta ter
    to va vel vi
    """
)
LAST_SYLLABLES = _words(
    """
    bar beck bel berg by da dan den don dor fel field gar gen ham hart hol kan ker la lan len lin lo
    lund ma man mer mond na nar nel ner ni nor ra rell ren rick rim ris ro ron sen son stad ta tan
    tel ten ton tor van vel ver ville vik vin well wick ya zen
    """
)

_WHEN = (
    "In the morning",
    "At noon",
    "In the evening",
    "After the rain",
    "Before winter",
    "On market day",
    "Last summer",
    "Every spring",
    "At night",
    "During the storm",
)
_WHO = (
    "the old fisherman",
    "a young woman",
    "the children",
    "two travellers",
    "the shepherd",
    "a tired merchant",
    "the neighbours",
    "an old friend",
    "the miller and his son",
    "a stranger",
    "the cook",
    "three soldiers",
)
_DID = (
    "carried",
    "found",
    "sold",
    "repaired",
    "forgot",
    "painted",
    "hid",
    "borrowed",
    "washed",
    "lost",
    "brought",
    "looked for",
)
_WHAT = (
    "a wooden box",
    "the blue boat",
    "some bread and cheese",
    "a heavy basket",
    "the broken clock",
    "a letter without a name",
    "two white horses",
    "the last lamp",
    "a bag of apples",
    "an empty barrel",
    "a pair of shoes",
    "the long rope",
)
_WHERE = (
    "near the river.",
    "behind the church.",
    "in the forest.",
    "on the bridge.",
    "at the edge of the village.",
    "under the old oak.",
    "beside the road.",
    "in the harbour.",
    "by the fire.",
    "on top of the hill.",
)
_WEATHER = (
    "the wind was cold",
    "it snowed for hours",
    "the sky was clear",
    "the fog came down",
    "the sun was low",
    "rain fell on the fields",
    "the river was high",
    "the leaves were red",
)
_AND = (
    "and nobody knew why.",
    "and all went home early.",
    "but the market was full.",
    "so the gates stayed shut.",
    "and the dogs were quiet.",
    "while the bells rang.",
    "but supper was ready.",
    "and the road was empty.",
)
FILLER = (
    (_WHEN, _WHO, _DID, _WHAT, _WHERE),
    (_WHEN, _WEATHER, _AND),
    (_WHEN, _WHO, _DID, _WHAT, ("while",), _WEATHER, _AND),
)
