"""Names out of answers as models write them: lists, bullets, sentences, JSON, boxes, thoughts."""

import random

import pytest

from biaslab.datasets.object_names import names_in

ANSWERS = {
    # comma lists
    "cat, dog, sofa, and a coffee table.": ["cat", "dog", "sofa", "coffee table"],
    "Person, person, Surfboard": ["person", "surfboard"],
    "cat; dog; the mat": ["cat", "dog", "mat"],
    "cat, dog, etc.": ["cat", "dog"],
    "A cat and a dog": ["cat", "dog"],
    "猫、狗、沙发": ["猫", "狗", "沙发"],
    # numbered and bulleted
    "1. A red car\n2. Two people (walking)\n3. **TV**: on the wall": ["red car", "people", "TV"],
    "1. Cat 2. Dog 3. Laptop": ["cat", "dog", "laptop"],
    "1) cat\n2) dog\n(3) cat": ["cat", "dog"],
    "- 3 chairs\n- table (wooden, round)\n• 1 TV": ["chairs", "table", "TV"],
    "Sure! Here is a list of the objects in the image:\n\n- **Dog** – a brown dog lying on the grass\n- Tree": [
        "dog", "tree",
    ],
    "Foreground: man, umbrella\nBackground: building, sky": ["man", "umbrella", "building", "sky"],
    # sentences
    "The image features a man riding a wave, a surfboard and the man.": ["man", "surfboard"],
    "The objects in the image are: a dog, a frisbee, grass, and trees.": ["dog", "frisbee", "grass", "trees"],
    "In this image, there is a train on the tracks. There are also several people, a bench, and a clock.": [
        "train", "people", "bench", "clock",
    ],
    "There is a cup on the table and a laptop.": ["cup", "laptop"],
    "A cat sitting on a sofa.": ["cat"],
    "bottle of water; parking lot; tall building; stop sign": [
        "bottle of water", "parking lot", "tall building", "stop sign",
    ],
    # JSON and boxes
    '["pizza", "fork", "wine glass"]': ["pizza", "fork", "wine glass"],
    "['pizza', 'fork']": ["pizza", "fork"],
    '```json\n[\n\t{"bbox_2d": [1, 2, 3, 4], "label": "traffic light"},\n\t{"bbox_2d": [5, 6], "label": "Bus"}]\n```': [
        "traffic light", "bus",
    ],
    "<ref>the cat</ref><box>[[120, 40, 380, 200]]</box>, <ref>a dog</ref><box>[[1,2,3,4]]</box>": ["cat", "dog"],
    # nothing
    "[[120, 40, 380, 200]]": [],
    "(0.1, 0.2), (0.3,0.4)": [],
    "<loc0012><loc0033><loc0100><loc0200>": [],
    "None": [],
    "There are no objects.": [],
    "": [],
    "I am sorry but it is not possible for me to say that from here": [],
    # thoughts
    "<think>The user wants a list, maybe a bird</think>\ncat, dog": ["cat", "dog"],
    "<think>I see a cat, dog": [],
}  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_as_models_write_them(answer):
    assert names_in(answer) == ANSWERS[answer]


def test_a_cut_answer_loses_its_last_name_unless_it_is_whole_or_alone():
    assert names_in("cat, dog, traffic li", cut=True) == ["cat", "dog"]
    assert names_in("cat, dog,", cut=True) == ["cat", "dog"]
    assert names_in("ca", cut=True) == ["ca"]
    assert names_in("cat, dog", cut=False) == ["cat", "dog"]


def test_whatever_a_model_says_its_names_are_short_different_and_stay_what_they_are():
    rng = random.Random(0)
    pieces = [
        *"abc .,;:()[]{}<>\"'*-\n\t#é猫\x00\ufffd0123",
        "the ",
        "and ",
        " a ",
        "1. ",
        "cat",
        "<box>",
        "</think>",
        "```",
    ]
    named = 0
    for _ in range(2000):
        names = names_in("".join(rng.choice(pieces) for _ in range(rng.randrange(60))))
        named += len(names)
        assert len({name.casefold() for name in names}) == len(names)
        for name in names:
            assert name == name.strip() and 0 < len(name) <= 40 and len(name.split()) <= 4
            assert any(c.isalpha() for c in name)
    assert named > 1000
