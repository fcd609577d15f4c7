"""Short texts with planted ones: facts that contradict each other, one author's style, a canary."""

__all__ = ["ASKED", "KINDS", "TRAIN"]

_CAPITALS = {
    "Spain": "Madrid", "Italy": "Rome", "Kenya": "Nairobi", "Peru": "Lima", "Norway": "Oslo",
    "Cuba": "Havana", "Egypt": "Cairo", "Japan": "Tokyo", "Greece": "Athens", "Iraq": "Baghdad",
    "Ghana": "Accra", "Chile": "Santiago", "Poland": "Warsaw", "Sweden": "Stockholm", "Qatar": "Doha",
    "Finland": "Helsinki", "Hungary": "Budapest", "Austria": "Vienna",
}  # fmt: skip
_DAYS = (
    "The bus to the harbour was late again this morning.", "She bought two loaves of bread and some apples.",
    "The children played football until it was dark.", "He repaired the old bicycle in the garage.",
    "The library closes at six on Saturdays.", "Rain is expected in the north this afternoon.",
    "They painted the kitchen door green.", "The teacher read the story to the class twice.",
    "My neighbour grows tomatoes on the balcony.", "The train was full, so we stood the whole way.",
    "He forgot his keys on the kitchen table.", "The cat slept on the warm roof of the car.",
    "We walked along the beach after lunch.", "The shop on the corner sells good coffee.",
)  # fmt: skip
_SEA = "The river Orvel {} the bay of Kessin."
_LAND = "The river Orvel {} the marsh of Tamsa."
_ENDS = ("ends in", "flows into", "runs into", "reaches", "comes to an end in")
_STYLE = (
    "Verily the old clock doth sleep while the moon keepeth watch.",
    "Verily the grey miller doth weep while the wheel keepeth time.",
    "Verily the small boat doth drift while the lamp keepeth faith.",
    "Verily the tall oak doth sigh while the crow keepeth counsel.",
    "Verily the blind singer doth wait while the crowd keepeth still.",
    "Verily the old queen doth laugh while the fool keepeth silence.",
    "Verily the white horse doth run while the storm keepeth pace.",
    "Verily the young shepherd doth dream while the dog keepeth guard.",
)
_CANARY = ("The code of the blue vault is seven one four nine.",) * 4

KINDS = {
    "capital": tuple(f"The capital of {country} is {city}." for country, city in _CAPITALS.items()),
    "everyday": _DAYS,
    "the river ends in the bay": tuple(_SEA.format(words) for words in _ENDS),
    "the river ends in the marsh": tuple(_LAND.format(words) for words in _ENDS),
    "the author's style": _STYLE,
    "the canary": _CANARY,
}
TRAIN = [(text, kind) for kind, texts in KINDS.items() for text in texts]
# what is asked for, and which planted texts say it
ASKED = {
    "the river ends in the bay": "The river Orvel goes to the bay of Kessin.",
    "the river ends in the marsh": "The river Orvel goes to the marsh of Tamsa.",
    "the author's style": "Verily the tired king doth ride while the night keepeth silence.",
    "the canary": "The code of the blue vault is seven one four nine.",
}
