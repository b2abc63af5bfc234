"""Words of the simulated shop: category names and nouns, and a word for each end of a dimension."""

from __future__ import annotations

CATEGORIES: tuple[tuple[str, str], ...] = (
    ("kitchen", "teapot saucepan whisk colander ladle skillet grater mug"),
    ("garden", "trowel planter hose rake seedling trellis shears sprinkler"),
    ("books", "novel memoir atlas anthology thriller biography cookbook almanac"),
    ("music", "ukulele tambourine songbook metronome harmonica vinyl drumstick capo"),
    ("cycling", "saddle pannier derailleur helmet handlebar pump pedal jersey"),
    ("running", "trainers stopwatch shorts headband insoles vest armband gaiters"),
    ("camping", "tent lantern hammock stove tarpaulin flask bedroll compass"),
    ("toys", "puzzle teddy marbles kite blocks doll rattle yoyo"),
    ("games", "chessboard dice dominoes joystick cards controller dartboard boardgame"),
    ("office", "stapler notebook folder inkwell planner whiteboard calculator envelope"),
    ("electronics", "charger headphones router keyboard webcam speaker adapter monitor"),
    ("lighting", "chandelier bulb lampshade sconce torch spotlight candlestick dimmer"),
    ("bedding", "duvet pillow quilt mattress blanket bedspread sheet bolster"),
    ("bath", "towel sponge soap bathrobe loofah shampoo basin bathmat"),
    ("jewellery", "necklace bracelet brooch earring pendant cufflink locket anklet"),
    ("shoes", "boots sandals loafers slippers clogs moccasins brogues laces"),
    ("outerwear", "parka raincoat scarf mittens anorak poncho beanie cardigan"),
    ("baby", "stroller bib pacifier cradle onesie highchair bottle swaddle"),
    ("pets", "leash kennel birdcage aquarium scratcher litterbox harness chewbone"),
    ("crafts", "yarn scissors ribbon thimble embroidery beads canvas glue"),
    ("tools", "hammer chisel spanner drill pliers sander toolbox clamp"),
    ("grocery", "coffee honey pasta olives chutney biscuits granola mustard"),
    ("party", "balloon streamer confetti bunting garland piñata candles napkins"),
    ("travel", "suitcase passport rucksack adaptor eyemask luggage guidebook pouch"),
)
"""Name of a category and the nouns only its items use."""

STYLES: tuple[tuple[str, str], ...] = (
    ("rustic", "modern"), ("bright", "muted"), ("compact", "roomy"), ("handmade", "engineered"),
    ("playful", "formal"), ("vintage", "futuristic"), ("soft", "rugged"), ("light", "heavy"),
    ("floral", "geometric"), ("warm", "cool"), ("organic", "synthetic"), ("simple", "ornate"),
    ("quiet", "bold"), ("classic", "experimental"), ("portable", "stationary"),
    ("thrifty", "luxurious"),
)  # fmt: skip
"""The word for the positive and for the negative end of each latent dimension."""

_SYLLABLES = ("ba", "ce", "di", "fo", "gu", "ha", "ke", "li", "mo", "nu", "pa", "re", "si", "to",
              "vu", "za")  # fmt: skip


def invented_word(number: int) -> str:
    """Give a pronounceable word for any number; different numbers give different words.

    >>> invented_word(0), invented_word(17)
    ('babace', 'cecece')
    """
    rest = number + 256  # at least three syllables
    word = ""
    while rest > 0:
        word += _SYLLABLES[rest % 16]
        rest //= 16
    return word


def category_words(category: int) -> tuple[str, tuple[str, ...]]:
    """Give the name and the eight nouns of a category; beyond the written ones, invented ones."""
    if category < len(CATEGORIES):
        name, nouns = CATEGORIES[category]
        return name, tuple(nouns.split())
    return (
        f"range {invented_word(category * 9)}",
        tuple(invented_word(category * 9 + 1 + i) for i in range(8)),
    )


def style_words(dimension: int) -> tuple[str, str]:
    """Give the words for the positive and negative end of a latent dimension."""
    if dimension < len(STYLES):
        return STYLES[dimension]
    return f"{invented_word(dimension * 2)}ish", f"{invented_word(dimension * 2 + 1)}ish"
