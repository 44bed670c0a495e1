"""One-word English names of the objects that scenes are made of and of small clutter, their colours and sizes.

Ten of the objects come in five colours (their hue is replaced), so that a colour word can tell two of them apart.
"""

from __future__ import annotations

NAMES: tuple[str, ...] = tuple(
    "cat dog elephant penguin fish turtle whale octopus crab butterfly bee snail frog owl duck rooster cow pig "
    "horse sheep giraffe fox rabbit panda parrot flamingo dinosaur "
    "apple banana carrot cake strawberry watermelon grapes pineapple corn burger pizza donut cheese mushroom "
    "avocado cupcake broccoli eggplant "
    "car bus bicycle rocket airplane ship tractor truck scooter helicopter train "
    "guitar camera key house tree cactus sunflower bell bulb umbrella gift balloon crown backpack hammer lock "
    "chair trophy clock book shirt dress bucket teapot laptop drum cookie hat".split()
)
TINTABLE = frozenset("car umbrella balloon backpack book shirt dress bucket teapot scooter".split())
CLUTTER: tuple[str, ...] = tuple(
    "leaf blossom leaves clover snowflake dizzy gear drop sparkles herb shell rock wood coral puzzle cyclone "
    "gem".split()
)
COLOURS: dict[str, int] = {"red": 0, "yellow": 36, "green": 90, "blue": 152, "purple": 196}  # hue of 0..255
SIZES: tuple[str, ...] = ("small", "big")
