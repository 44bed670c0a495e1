"""Make the images in ``biaslab/scenes/objects`` from the npm package ``@lobehub/fluent-emoji-3d``.

npm pack @lobehub/fluent-emoji-3d && tar xzf lobehub-fluent-emoji-3d-*.tgz
python tools/build_objects.py package/assets
"""

import sys
from pathlib import Path

from PIL import Image

CODES = """cat 1f408 dog 1f415 elephant 1f418 penguin 1f427 fish 1f41f turtle 1f422 whale 1f433 octopus 1f419
crab 1f980 butterfly 1f98b bee 1f41d snail 1f40c frog 1f438 owl 1f989 duck 1f986 rooster 1f413 cow 1f404
pig 1f416 horse 1f40e sheep 1f411 giraffe 1f992 fox 1f98a rabbit 1f407 panda 1f43c parrot 1f99c
flamingo 1f9a9 dinosaur 1f996 apple 1f34e banana 1f34c carrot 1f955 cake 1f382 strawberry 1f353
watermelon 1f349 grapes 1f347 pineapple 1f34d corn 1f33d burger 1f354 pizza 1f355 donut 1f369 cheese 1f9c0
mushroom 1f344 avocado 1f951 cupcake 1f9c1 broccoli 1f966 eggplant 1f346 car 1f697 bus 1f68c
bicycle 1f6b2 rocket 1f680 airplane 2708-fe0f ship 1f6a2 tractor 1f69c truck 1f69a scooter 1f6f5
helicopter 1f681 train 1f682 guitar 1f3b8 camera 1f4f7 key 1f511 house 1f3e0 tree 1f332 cactus 1f335
sunflower 1f33b bell 1f514 bulb 1f4a1 umbrella 2614 gift 1f381 balloon 1f388 crown 1f451 backpack 1f392
hammer 1f528 lock 1f512 chair 1fa91 trophy 1f3c6 clock 1f550 book 1f4d5 shirt 1f455 dress 1f457
bucket 1faa3 teapot 1fad6 laptop 1f4bb drum 1f941 cookie 1f36a hat 1f3a9
leaf 1f343 blossom 1f338 leaves 1f342 clover 1f340 snowflake 2744-fe0f dizzy 1f4ab gear 2699-fe0f
drop 1f4a7 sparkles 2728 herb 1f33f shell 1f41a rock 1faa8 wood 1fab5 coral 1fab8 puzzle 1f9e9
cyclone 1f300 gem 1f48e""".split()
SIDE = 96


def main(source: Path, target: Path) -> None:
    """Crop, shrink and write every object."""
    target.mkdir(parents=True, exist_ok=True)
    for name, code in zip(CODES[::2], CODES[1::2], strict=True):
        image = Image.open(source / f"{code}.webp").convert("RGBA")
        image = image.crop(image.getchannel("A").point(lambda v: 255 * (v > 20)).getbbox())
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        image.save(target / f"{name}.webp", quality=92, alpha_quality=100, method=6)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parents[1] / "biaslab" / "scenes" / "objects")
