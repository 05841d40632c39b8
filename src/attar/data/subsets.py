"""Named subsets of ImageNet-1k, and how a wanted class finds its folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from attar.base.errors import InputError, unknown


class Member(NamedTuple):
    """One class of ImageNet-1k: its name, its WordNet id, and its index in 0..999 (the place of its id in order)."""

    name: str
    wnid: str
    imagenet_index: int


# Index, WordNet id, name as ImageNet gives it first, then other names under which a folder is found.
_TABLE = """
0 n01440764 tench
9 n01518878 ostrich
11 n01531178 goldfinch
13 n01534433 junco, snowbird
15 n01558993 robin, American robin
19 n01592084 chickadee
22 n01614925 bald eagle
24 n01622779 great grey owl, great gray owl
45 n01692333 Gila monster
54 n01729322 hognose snake
57 n01735189 garter snake
64 n01749939 green mamba
72 n01773157 black and gold garden spider
74 n01773797 garden spider
76 n01774750 tarantula
84 n01806143 peacock
88 n01818515 macaw
89 n01819313 sulphur-crested cockatoo, cockatoo
90 n01820546 lorikeet
92 n01828970 bee eater
93 n01829413 hornbill
94 n01833805 hummingbird
96 n01843383 toucan
99 n01855672 goose
100 n01860187 black swan
102 n01872401 echidna
119 n01978455 rock crab
120 n01980166 fiddler crab
122 n01983481 American lobster, Maine lobster
129 n02006656 spoonbill
130 n02007558 flamingo
131 n02009229 little blue heron
135 n02013706 limpkin
136 n02017213 European gallinule
137 n02018207 American coot
139 n02025239 ruddy turnstone
144 n02051845 pelican
145 n02056570 king penguin
148 n02071294 killer whale, orca
151 n02085620 Chihuahua
155 n02086240 Shih-Tzu
157 n02086910 papillon
158 n02087046 toy terrier
159 n02087394 Rhodesian ridgeback
162 n02088364 beagle
166 n02089867 Walker hound
167 n02089973 English foxhound
169 n02090622 borzoi
176 n02091831 Saluki, gazelle hound
180 n02093428 American Staffordshire terrier
182 n02093754 Border terrier
193 n02096294 Australian terrier
207 n02099601 golden retriever
209 n02099849 Chesapeake Bay retriever
211 n02100583 vizsla
217 n02102040 English springer, English springer spaniel
222 n02104029 kuvasz
228 n02105505 komondor
229 n02105641 Old English sheepdog, English sheepdog
234 n02106550 Rottweiler
236 n02107142 Doberman, Doberman pinscher
242 n02108089 boxer
246 n02109047 Great Dane
255 n02111129 Leonberg
258 n02111889 Samoyed, Samoyede
259 n02112018 Pomeranian
262 n02112706 Brabancon griffon
267 n02113799 standard poodle
268 n02113978 Mexican hairless
272 n02114855 coyote
273 n02115641 dingo
275 n02116738 African hunting dog
277 n02119022 red fox
281 n02123045 tabby, tabby cat
282 n02123159 tiger cat, Bengal cat
283 n02123394 Persian cat
284 n02123597 Siamese cat, Siamese
285 n02124075 Egyptian cat
287 n02127052 lynx
289 n02128757 snow leopard
290 n02128925 jaguar
291 n02129165 lion
292 n02129604 tiger
299 n02138441 meerkat
305 n02172182 dung beetle
309 n02206856 bee
313 n02231487 walking stick
317 n02259212 leafhopper
321 n02276258 admiral
322 n02277742 ringlet, ringlet butterfly
324 n02280649 cabbage butterfly
326 n02281787 lycaenid, lycaenid butterfly
331 n02326432 hare
333 n02342885 hamster
339 n02389026 sorrel
342 n02396427 wild boar
364 n02457408 three-toed sloth
368 n02483362 gibbon
374 n02488291 langur
376 n02489166 proboscis monkey
392 n02606052 rock beauty
407 n02701002 ambulance
421 n02788148 bannister
431 n02804414 bassinet
449 n02859443 boathouse
452 n02869837 bonnet, poke bonnet
455 n02877765 bottlecap
479 n02974003 car wheel
482 n02979186 cassette player
491 n03000684 chain saw, chainsaw
494 n03017168 chime
497 n03028079 church, church building
498 n03032252 cinema
500 n03042490 cliff dwelling
503 n03062245 cocktail shaker
508 n03085013 computer keyboard
535 n03208938 disk brake, disc brake
544 n03259280 Dutch oven
554 n03344393 fireboat
560 n03379051 football helmet
565 n03393912 freight car
566 n03394916 French horn
569 n03417042 garbage truck
570 n03424325 gasmask, gas mask
571 n03425413 gas pump, petrol pump
574 n03445777 golf ball
576 n03447447 gondola
592 n03492542 hard disc
593 n03494278 harmonica
599 n03530642 honeycomb
606 n03584829 iron
608 n03594734 jean
619 n03637318 lampshade
620 n03642806 laptop
653 n03764736 milk can
659 n03775546 mixing bowl
662 n03777754 modem
665 n03785016 moped
667 n03787032 mortarboard
674 n03794056 mousetrap
682 n03837869 obelisk
685 n03841143 odometer
688 n03857828 oscilloscope, scope
701 n03888257 parachute
703 n03891251 park bench
708 n03903868 pedestal
713 n03924679 photocopier
717 n03930630 pickup
724 n03947888 pirate
739 n03992509 potter's wheel
748 n04026417 purse
758 n04067472 reel
765 n04099969 rocking chair
766 n04111531 rotisserie
772 n04127249 safety pin
775 n04136333 sarong
779 n04146614 school bus
783 n04153751 screw
796 n04229816 ski mask
798 n04238763 slide rule
816 n04277352 spindle
830 n04336792 stretcher
854 n04418357 theater curtain
857 n04429376 throne
858 n04435653 tile roof
872 n04485082 tripod
874 n04487081 trolleybus, trollybus
876 n04493381 tub
882 n04517823 vacuum, vacuum cleaner
904 n04589890 window screen
908 n04592741 wing
916 n06359193 web site, website
936 n07714571 head cabbage
938 n07715103 cauliflower
943 n07718472 cucumber
945 n07720875 bell pepper
948 n07742313 Granny Smith, Granny Smith apple, green apple
949 n07745940 strawberry
950 n07747607 orange
951 n07749582 lemon
952 n07753113 fig
953 n07753275 pineapple
954 n07753592 banana
957 n07768694 pomegranate
959 n07831146 carbonara
960 n07836838 chocolate sauce
984 n11879895 rapeseed
986 n12057211 yellow lady's slipper
987 n12144580 corn
993 n13037406 gyromitra
994 n13040303 stinkhorn
995 n13044778 earthstar, earth star
"""

_INDICES = {
    "bird": "84 130 88 144 145 22 96 9 100 89",
    "fruit": "953 954 949 950 951 957 952 945 943 948",
    "woof": "193 182 258 162 155 167 159 273 207 229",
    "cat": "281 282 283 284 285 291 292 290 289 287",
    "nette": "0 217 482 491 497 566 569 571 574 701",
    "yellow": "309 986 954 951 987 779 599 291 72 11",
    "imagenet-a": "255 376 984 364 500 986 333 576 148 135",
    "imagenet-b": "129 916 90 275 995 874 102 259 685 139",
    "imagenet-c": "565 94 554 535 92 392 291 136 324 11",
    "imagenet-d": "9 258 13 262 19 339 321 24 93 322",
    "imagenet-e": "816 96 100 145 739 713 783 76 688 326",
    "imagenet-10": "452 64 374 236 993 176 882 904 503 74",
    "imagenet-100": """
        452 64 374 236 993 176 882 904 503 74 57 959 953 508 872 228 122 421 599 858 157 449 994 608 151 209 15 876
        246 766 455 857 131 119 234 90 45 936 479 272 665 653 659 158 960 765 908 703 407 560 317 938 724 748 331 619
        120 267 155 708 368 772 167 494 180 431 342 854 305 54 268 667 166 277 662 798 313 498 299 222 682 593 775 674
        592 137 758 717 606 281 796 211 620 830 544 275 242 570 99 169
    """,
}

_ALIASES = {
    "bird": "birds squawk imagesquawk imagenetbirds imagenetbird",
    "fruit": "fruits imagefruit imagenetfruits imagenetfruit",
    "woof": "imagewoof imagenetwoof",
    "cat": "cats meow imagemeow imagenetcats imagenetcat",
    "nette": "imagenette imagenetnette",
    "yellow": "imageyellow imagenetyellow",
    "imagenet-a": "a",
    "imagenet-b": "b",
    "imagenet-c": "c",
    "imagenet-d": "d",
    "imagenet-e": "e",
}


def _parse_table() -> Iterator[tuple[Member, tuple[str, ...]]]:
    for line in _TABLE.strip().splitlines():
        index, wnid, names = line.split(" ", 2)
        name, *others = names.split(", ")
        yield Member(name, wnid, int(index)), tuple(others)


_OTHER_NAMES = dict(_parse_table())
_BY_INDEX = {member.imagenet_index: member for member in _OTHER_NAMES}

#: Subset name -> its classes, in the order of the papers.
#:
#: Source: bird, fruit, woof, cat, nette: LatentDD appendix A.4, with its indices (first of MTT, Cazenavette et al.
#:     2022; woof and nette: Howard 2019). yellow: MTT's code. imagenet-a to -e: LD3M table 9 (first of GLaD,
#:     Cazenavette et al. 2023); its birds, fruits and cats are the same classes. imagenet-10, -100: IDC, Kim et al.
#:     2022, after Tian et al. 2020.
#: Deviation: the papers' tables print some names freely. LD3M's "Bengal cat" is ImageNet's tiger cat (282), its
#:     "English sheepdog" the Old English sheepdog (229), its "cockatoo" the sulphur-crested one (89), its "snowbird"
#:     the junco (13), its "orca" the killer whale (148). Its "hyena" is, by the index lists in circulation, 275, the
#:     African hunting dog ("hyena dog"), and not ImageNet's hyena (276): we follow the lists.
SUBSETS: dict[str, tuple[Member, ...]] = {
    name: tuple(_BY_INDEX[int(index)] for index in indices.split()) for name, indices in _INDICES.items()
}


def subset(name: str) -> tuple[Member, ...]:
    """The classes of a named subset; case, spaces, hyphens and the papers' other names (squawk, meow) do not matter.

    Raises:
        InputError: no subset has that name (the nearest is named).
    """
    known = {_plain(key): key for key in SUBSETS} | {
        alias: key for key, row in _ALIASES.items() for alias in row.split()
    }
    if _plain(name) not in known:
        raise unknown("subset", name, SUBSETS)
    return SUBSETS[known[_plain(name)]]


def match_classes(wanted: Sequence[str | int] | str, available: Sequence[str]) -> tuple[list[int], list[str]]:
    """Where each wanted class is among the available ones, and what it is called from now on.

    A named subset (a str) and ImageNet's class names match folders by WordNet id (alone or leading the name), by name
    or by the name without case, spaces, hyphens and underscores. Classes keep the name by which they were asked for.

    Args:
        wanted: the name of a subset, or class names and indices.
        available: the class names at hand.

    Raises:
        InputError: what is missing, ambiguous or listed twice; fewer than two classes.
    """
    if isinstance(wanted, str):
        members = subset(wanted)
        found = [_find_member(member, available) for member in members]
        missing = [f"{m.name} ({m.wnid})" for m, place in zip(members, found, strict=True) if place is None]
        if missing:
            raise InputError(
                f"subset {wanted!r} needs {len(members)} classes and {len(missing)} are missing: {_some(missing)}; "
                f"at hand are {_some(available)}"
            )
        places, names = [place for place in found if place is not None], [member.name for member in members]
    else:
        places = [_find(item, available) for item in wanted]
        pairs = zip(wanted, places, strict=True)
        names = [item if isinstance(item, str) and not item.isdigit() else available[place] for item, place in pairs]
    if len(set(places)) != len(places):
        raise InputError(f"a class is listed twice in {_some([str(name) for name in names])}; list each once")
    if len(places) < 2:
        raise InputError(f"{len(places)} class was asked for; name at least 2")
    return places, names


def _find(wanted: str | int, available: Sequence[str]) -> int:
    if isinstance(wanted, str):
        if wanted in available:
            return list(available).index(wanted)
        member = next((m for m, others in _OTHER_NAMES.items() if _plain(wanted) in _plain_names(m, others)), None)
        place = _find_member(member, available) if member else None
        place = _find_plain([wanted], available) if place is None else place
        if place is not None:
            return place
        if not wanted.lstrip("-").isdigit():
            raise unknown("class", wanted, available)
    if not 0 <= int(wanted) < len(available):
        raise InputError(f"class index {int(wanted)} is out of range; there are {len(available)}, counted from 0")
    return int(wanted)


def _find_member(member: Member, available: Sequence[str]) -> int | None:
    ids = [re.match(r"n\d{8}(?!\d)", name) for name in available]
    for place, found in enumerate(ids):
        if found and found.group() == member.wnid:
            return place
    return _find_plain([member.name, *_OTHER_NAMES[member]], available)


def _find_plain(names: Sequence[str], available: Sequence[str]) -> int | None:
    """The place of the first of `names` that is at hand, exactly or else without case and separators."""
    for name in names:
        if name in available:
            return list(available).index(name)
    for name in names:
        places = [place for place, other in enumerate(available) if _plain(other) == _plain(name)]
        if len(places) > 1:
            both = [available[place] for place in places]
            raise InputError(f"class {name!r} could be {' or '.join(map(repr, both))}; give the exact name")
        if places:
            return places[0]
    return None


def _plain_names(member: Member, others: Sequence[str]) -> set[str]:
    return {_plain(name) for name in (member.name, member.wnid, *others)}


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-'’.]+", "", name).casefold()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
