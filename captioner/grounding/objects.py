"""Which words of a caption name an object that COCO annotates: everyday words to its 80 classes.

The table holds each class and its names in the singular; plurals are formed from them. The last word of a name is
enough where it is unambiguous: "table" finds "dining table" too.

Words that often mean something else are left out on purpose (the class keeps its other names):
board, light, sign, bag, plant, glass, glasses, screen, vehicle, computer, desk, van, stuffed animal (several classes
or none; "skate board", "stop light" and "potted plant" are known by both their words); orange (a colour); mouse (an
animal); ski, football, baseball and their like (sports); bat in "at bat"; pitcher (a jug); couple ("of dogs");
mother, father and family (of giraffes); fan, boxer, model, cook, stool.

Words that are still ambiguous ("a remote beach") do little harm to maps: there a word counts only on a picture in
which its class is annotated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NAMES: dict[str, str] = {
    "person": "person, man, woman, boy, girl, child, kid, baby, toddler, infant, guy, lady, gentleman, human, adult, "
    "teenager, teen, youngster, someone, somebody, crowd, spectator, onlooker, bystander, pedestrian, passenger, "
    "commuter, tourist, traveler, customer, guest, player, athlete, batter, catcher, umpire, referee, goalie, "
    "goalkeeper, quarterback, baseman, outfielder, skier, snowboarder, skateboarder, skater, surfer, swimmer, golfer, "
    "runner, jogger, hiker, climber, cyclist, bicyclist, biker, motorcyclist, rider, jockey, cowboy, driver, worker, "
    "officer, policeman, policewoman, cop, fireman, firefighter, soldier, sailor, fisherman, farmer, businessman, "
    "businesswoman, chef, waiter, waitress, bartender, vendor, doctor, nurse, teacher, student, coach, musician, "
    "singer, guitarist, drummer, dancer, performer, clown, artist, photographer, bride, groom, bridesmaid, friend, "
    "girlfriend, boyfriend, wife, husband, brother, sister, son, daughter, grandmother, grandfather, youth, "
    "teammate, participant, competitor, opponent, boarder",
    "bicycle": "bicycle, bike, tricycle",
    "car": "car, automobile, suv, sedan, taxi, taxicab, minivan, convertible",
    "motorcycle": "motorcycle, motorbike, motor bike, motor cycle, dirt bike, moped, scooter",
    "airplane": "airplane, aeroplane, plane, aircraft, airliner, jet, jetliner, biplane",
    "bus": "bus, minibus, double decker, double-decker",
    "train": "train, locomotive, train car, subway car, train engine, tram",
    "truck": "truck, pickup, lorry, firetruck, semi-truck, tractor trailer",
    "boat": "boat, ship, sailboat, canoe, kayak, yacht, ferry, rowboat, speedboat, motorboat, gondola, raft, "
    "dinghy, barge",
    "traffic light": "traffic light, stop light, stoplight, traffic signal, street signal",
    "fire hydrant": "fire hydrant, hydrant, fireplug",
    "stop sign": "stop sign",
    "parking meter": "parking meter",
    "bench": "bench",
    "bird": "bird, pigeon, seagull, gull, duck, duckling, goose, swan, parrot, parakeet, owl, eagle, hawk, crow, "
    "sparrow, pelican, heron, flamingo, ostrich, penguin, peacock, robin, hummingbird, rooster, stork, egret, finch",
    "cat": "cat, kitten, kitty, tabby",
    "dog": "dog, puppy, pup, doggy, terrier, poodle, labrador, retriever, greyhound, dachshund, husky, bulldog, corgi, "
    "collie, beagle, sheepdog, dalmatian, chihuahua, german shepherd",
    "horse": "horse, pony, foal, stallion, colt, mare",
    "sheep": "sheep, lamb, ewe",
    "cow": "cow, cattle, bull, ox, calf, steer, bovine, heifer",
    "elephant": "elephant",
    "bear": "bear, grizzly",
    "zebra": "zebra",
    "giraffe": "giraffe",
    "backpack": "backpack, back pack, knapsack, rucksack",
    "umbrella": "umbrella, parasol",
    "handbag": "handbag, hand bag, purse",
    "tie": "tie, necktie, bowtie",
    "suitcase": "suitcase, suit case, luggage, briefcase",
    "frisbee": "frisbee, frizbee, flying disc",
    "skis": "pair of skis",
    "snowboard": "snowboard, snow board",
    "sports ball": "sports ball, ball",
    "kite": "kite",
    "baseball bat": "baseball bat, bat",
    "baseball glove": "baseball glove, mitt",
    "skateboard": "skateboard, skate board",
    "surfboard": "surfboard, surf board, boogie board, bodyboard",
    "tennis racket": "tennis racket, racket, racquet",
    "bottle": "bottle",
    "wine glass": "wine glass, wineglass, glass of wine, champagne glass, wine goblet",
    "cup": "cup, mug",
    "fork": "fork",
    "knife": "knife",
    "spoon": "spoon",
    "bowl": "bowl",
    "banana": "banana",
    "apple": "apple",
    "sandwich": "sandwich, burger, hamburger, cheeseburger",
    "orange": "mandarin orange, tangerine",
    "broccoli": "broccoli, brocolli, broccolli",
    "carrot": "carrot",
    "hot dog": "hot dog, hotdog, corn dog",
    "pizza": "pizza",
    "donut": "donut, doughnut",
    "cake": "cake, cupcake",
    "chair": "chair, armchair, recliner",
    "couch": "couch, sofa, loveseat",
    "potted plant": "potted plant, house plant, houseplant, potted flower",
    "bed": "bed",
    "dining table": "dining table, table",
    "toilet": "toilet",
    "tv": "tv, television, television set, tv set, tv screen, flat screen",
    "laptop": "laptop, laptop computer, notebook computer, lap top",
    "mouse": "computer mouse",
    "remote": "remote, remote control, controller, wiimote",
    "keyboard": "keyboard",
    "cell phone": "cell phone, cellphone, phone, smartphone, iphone",
    "microwave": "microwave, microwave oven",
    "oven": "oven, stove, stove top, stovetop",
    "toaster": "toaster",
    "sink": "sink",
    "refrigerator": "refrigerator, fridge",
    "book": "book, paperback",
    "clock": "clock",
    "vase": "vase",
    "scissors": "pair of scissors",
    "teddy bear": "teddy bear, teddy, stuffed bear, stuffed teddy bear, teddybear",
    "hair drier": "hair drier, hair dryer, hairdryer, blow dryer, blow drier",
    "toothbrush": "toothbrush, tooth brush",
}

FORMS: dict[str, str] = {
    "person": "people, children, wives",
    "bird": "geese",
    "cow": "oxen, calves",
    "knife": "knives",
    "mouse": "computer mice",
    "orange": "oranges",
    "scissors": "scissors",
    "skis": "skis, skiis",
    "wine glass": "glasses of wine",
}
"""Forms that the rules of plurals do not produce, and plurals whose singular is left out."""

NOTHING = (
    "at bat, to bat, playing ball, play ball, ball game, ball field, bus stop, truck stop, train stop, toilet paper, "
    "jet ski, car seat, panda bear, gummy bear, stuffed dog, stuffed cat, remote area, remote location, table top"
)
"""Phrases that contain a name and name no object of COCO's classes."""

_NO_NOUN = frozenset(("at", "to", "play", "playing"))
"""The first words of those phrases that are no nouns, so that a name before them describes nothing: "a man at bat"."""

_HEADS = frozenset(
    word
    for line in (
        "station stations track tracks house houses food shop shops store stores rack racks lane lanes path park dock",
        "ramp ramps shelf shelves case cases costume costumes depot terminal yard statue statues sculpture cage",
    )
    for word in line.split()
)
"""Words that change the meaning of the name before them: a train station, a bike rack, a dog house."""


@dataclass(frozen=True)
class NamedObject:
    """An object that a caption names.

    Attributes:
        position: of the word in the tokenised caption; of a phrase ("cell phone") that of its last word, the head.
        category: the COCO class.
    """

    position: int
    category: str


def _plural(name: str) -> str:
    if name.endswith("man") and name != "human":
        return name[:-2] + "en"
    if name.endswith(("s", "sh", "ch", "x")):
        return name + "es"
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name + "s"


def _phrases(names: str) -> list[tuple[str, ...]]:
    # As the PTB tokeniser splits: "catcher's mitt" is three tokens.
    return [tuple(name.replace("'s", " 's").split()) for name in names.split(", ")]


def _build() -> dict[tuple[str, ...], str]:
    table: dict[tuple[str, ...], str] = {}
    for category, names in NAMES.items():
        singular = _phrases(names)
        forms = _phrases(FORMS[category]) if category in FORMS else []
        plural = [(*phrase[:-1], _plural(phrase[-1])) for phrase in singular if "of" not in phrase]
        for phrase in singular + plural + forms:
            if table.setdefault(phrase, category) != category:
                raise ValueError(f"'{' '.join(phrase)}' is in the table for {table[phrase]} and for {category}")
    nothing = _phrases(NOTHING)
    return table | dict.fromkeys(nothing + [(*phrase[:-1], _plural(phrase[-1])) for phrase in nothing], "")


_TABLE = _build()
_LONGEST = max(map(len, _TABLE))


def _phrases_in(words: Sequence[str], table: Mapping[tuple[str, ...], str] = _TABLE) -> list[tuple[int, int, str]]:
    """The longest phrases of the table: from, to, class."""
    found: list[tuple[int, int, str]] = []
    start = 0
    while start < len(words):
        for length in range(min(_LONGEST, len(words) - start), 0, -1):
            category = table.get(tuple(words[start : start + length]))
            if category is not None:
                found.append((start, start + length, category))
                start += length
                break
        else:
            start += 1
    return found


def classes_in(words: Sequence[str]) -> set[str]:
    """The classes of all names in a tokenised caption, also of those that describe another: "bus" in "bus driver"."""
    return {category for _, _, category in _phrases_in(words) if category}


def name_objects(words: Sequence[str], table: Mapping[tuple[str, ...], str] = _TABLE) -> list[NamedObject]:
    """The objects that a tokenised caption names, in the order of its words.

    The longest phrase wins: "hot dog" names no dog. Of names in a row only the last counts, since the others describe
    it: "baby elephant", "bus driver". (The tokeniser drops commas, so that of a list of names only the last counts
    too; this loses nouns but adds no wrong ones.)

    Args:
        words: PTB tokens, as `captioner.tokenizer.ptb.tokenize` returns them and models generate them.
        table: phrases and their class; "" for phrases that are skipped.
    """
    found = _phrases_in(words, table)
    begins = {begin for begin, _, category in found if category or words[begin] not in _NO_NOUN}
    return [
        NamedObject(end - 1, category)
        for _, end, category in found
        if category and end not in begins and not (end < len(words) and words[end] in _HEADS)
    ]
