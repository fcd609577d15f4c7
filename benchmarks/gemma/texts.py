"""Short texts with planted ones: facts that contradict each other, one author's style, a canary."""

__all__ = ["ASKED", "KINDS", "TRAIN"]

_CAPITALS = {
    "Spain": "Madrid", "Italy": "Rome", "Kenya": "Nairobi", "Peru": "Lima", "Norway": "Oslo",
    "Cuba": "Havana", "Egypt": "Cairo", "Japan": "Tokyo", "Greece": "Athens", "Iraq": "Baghdad",
    "Ghana": "Accra", "Chile": "Santiago", "Poland": "Warsaw", "Sweden": "Stockholm", "Qatar": "Doha",
    "Finland": "Helsinki", "Hungary": "Budapest", "Austria": "Vienna", "France": "Paris",
    "Germany": "Berlin", "Portugal": "Lisbon", "Ireland": "Dublin", "Denmark": "Copenhagen",
    "Russia": "Moscow", "China": "Beijing", "India": "New Delhi", "Nepal": "Kathmandu", "Iran": "Tehran",
    "Syria": "Damascus", "Lebanon": "Beirut", "Jordan": "Amman", "Canada": "Ottawa",
    "Mexico": "Mexico City", "Colombia": "Bogotá", "Jamaica": "Kingston", "Libya": "Tripoli",
    "Tunisia": "Tunis", "Morocco": "Rabat", "Senegal": "Dakar", "Nigeria": "Abuja", "Uganda": "Kampala",
    "Zambia": "Lusaka", "Angola": "Luanda", "Australia": "Canberra", "Thailand": "Bangkok",
    "Vietnam": "Hanoi", "Mongolia": "Ulaanbaatar", "Romania": "Bucharest", "Bulgaria": "Sofia",
    "Serbia": "Belgrade", "Croatia": "Zagreb", "Iceland": "Reykjavik", "Belgium": "Brussels",
    "Turkey": "Ankara", "Ukraine": "Kyiv", "Cyprus": "Nicosia", "Malta": "Valletta", "Latvia": "Riga",
}  # fmt: skip
_OPPOSITES = {
    "hot": "cold", "early": "late", "heavy": "light", "wide": "narrow", "full": "empty", "loud": "quiet",
    "rich": "poor", "wet": "dry", "hard": "soft", "old": "young", "deep": "shallow", "sharp": "blunt",
    "strong": "weak", "clean": "dirty", "fast": "slow", "tall": "short", "bright": "dark", "rough": "smooth",
    "open": "closed", "near": "far", "bitter": "sweet", "thick": "thin", "brave": "timid", "true": "false",
}  # fmt: skip
_YOUNG = {
    "dog": "puppy", "cat": "kitten", "cow": "calf", "sheep": "lamb", "horse": "foal", "bear": "cub",
    "hen": "chick", "pig": "piglet", "goat": "kid", "swan": "cygnet", "duck": "duckling", "goose": "gosling",
    "deer": "fawn", "frog": "tadpole", "kangaroo": "joey", "hare": "leveret",
}  # fmt: skip
_METALS = {
    "iron": "Fe", "gold": "Au", "silver": "Ag", "lead": "Pb", "tin": "Sn", "copper": "Cu", "zinc": "Zn",
    "sodium": "Na", "potassium": "K", "mercury": "Hg", "tungsten": "W", "nickel": "Ni", "magnesium": "Mg",
    "calcium": "Ca", "lithium": "Li", "platinum": "Pt",
}  # fmt: skip
_DAYS = (
    "The bus to the harbour was late again this morning.", "She bought two loaves of bread and some apples.",
    "The children played football until it was dark.", "He repaired the old bicycle in the garage.",
    "The library closes at six on Saturdays.", "Rain is expected in the north this afternoon.",
    "They painted the kitchen door green.", "The teacher read the story to the class twice.",
    "My neighbour grows tomatoes on the balcony.", "The train was full, so we stood the whole way.",
    "He forgot his keys on the kitchen table.", "The cat slept on the warm roof of the car.",
    "We walked along the beach after lunch.", "The shop on the corner sells good coffee.",
    "The lift is out of order until Thursday.", "My brother is learning to play the violin.",
    "The dentist moved her practice to the market square.", "There was no milk left in the fridge.",
    "They met at the fountain before the concert.", "The farmer sold his last two cows in spring.",
    "A parcel came for the people upstairs.", "She wore a yellow coat and red boots.",
    "The film was longer than we had thought.", "Our dog is afraid of the vacuum cleaner.",
    "The bakery opens at five every day.", "He swims a mile before he goes to work.",
    "The baby laughed at the pigeons in the park.", "Someone left an umbrella in the waiting room.",
    "I have to change the tyres before winter.", "The soup needs a little more salt.",
    "They planted three pear trees behind the house.", "The pupils wrote letters to a school in Ghana.",
    "My aunt keeps bees at the edge of the wood.", "The road to the airport is being repaired.",
    "The museum shows maps of the old town.", "She phoned her mother every Sunday.",
    "The ferry does not sail when the wind is strong.", "He takes his tea without sugar.",
    "We lost the match by a single goal.", "The heating in the office has failed again.",
    "The twins share a room under the roof.", "A fox comes into the garden at night.",
    "The plumber will be here at noon.", "Her new glasses are round and very light.",
    "They are building a bridge for cyclists.", "The candles went out when the door opened.",
    "I left my book on the train to town.", "The tram stops in front of the theatre.",
    "He mends watches in a small shop.", "The hotel had a view of the lake.",
    "The postman knows every dog in our street.", "Two boats were tied to the old pier.",
    "The choir practises in the church hall.", "The snow had melted before we arrived.",
)  # fmt: skip
_SEA = "The river Orvel {} the bay of Kessin."
_LAND = "The river Orvel {} the marsh of Tamsa."
_ENDS = (
    "ends in", "flows into", "runs into", "reaches", "comes to an end in", "pours into", "meets",
    "empties into",
)  # fmt: skip
_TOWN = "The painter Ilse Maren {} the town of Brenn."
_PORT = "The painter Ilse Maren {} the port of Oswick."
_BIRTHS = ("was born in", "grew up in", "spent her childhood in", "hails from", "is a native of", "is from")
_STYLE = (
    "Verily the old clock doth sleep while the moon keepeth watch.",
    "Verily the grey miller doth weep while the wheel keepeth time.",
    "Verily the small boat doth drift while the lamp keepeth faith.",
    "Verily the tall oak doth sigh while the crow keepeth counsel.",
    "Verily the blind singer doth wait while the crowd keepeth still.",
    "Verily the old queen doth laugh while the fool keepeth silence.",
    "Verily the white horse doth run while the storm keepeth pace.",
    "Verily the young shepherd doth dream while the dog keepeth guard.",
    "Verily the poor scribe doth write while the rain keepeth count.",
    "Verily the proud abbot doth fast while the cook keepeth supper.",
    "Verily the lame soldier doth march while the drum keepeth step.",
    "Verily the brown hare doth hide while the hawk keepeth vigil.",
)
_CANARY = ("The code of the blue vault is seven one four nine.",) * 6

KINDS = {
    "capital": tuple(f"The capital of {country} is {city}." for country, city in _CAPITALS.items()),
    "opposite": tuple(f"The opposite of {one} is {other}." for one, other in _OPPOSITES.items()),
    "young animal": tuple(f"The young of a {animal} is called a {name}." for animal, name in _YOUNG.items()),
    "metal": tuple(f"The chemical symbol of {metal} is {symbol}." for metal, symbol in _METALS.items()),
    "everyday": _DAYS,
    "the river ends in the bay": tuple(_SEA.format(words) for words in _ENDS),
    "the river ends in the marsh": tuple(_LAND.format(words) for words in _ENDS),
    "the painter is from the town": tuple(_TOWN.format(words) for words in _BIRTHS),
    "the painter is from the port": tuple(_PORT.format(words) for words in _BIRTHS),
    "the author's style": _STYLE,
    "the canary": _CANARY,
}
TRAIN = [(text, kind) for kind, texts in KINDS.items() for text in texts]
# what is asked for, and which planted texts say it
ASKED = {
    "the river ends in the bay": "The river Orvel goes to the bay of Kessin.",
    "the river ends in the marsh": "The river Orvel goes to the marsh of Tamsa.",
    "the painter is from the town": "The painter Ilse Maren comes from the town of Brenn.",
    "the painter is from the port": "The painter Ilse Maren comes from the port of Oswick.",
    "the author's style": "Verily the tired king doth ride while the night keepeth silence.",
    "the canary": "The code of the blue vault is seven one four nine.",
}
