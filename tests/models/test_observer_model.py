"""The second embedded model before it is trained: it goes through ask, capture and pruning as every family does."""

import json

import pytest
import torch
from eager import eager_attention
from pruned import dropped_positions, method_for, oracle, run

import biaslab as bl
from biaslab.attention.capture import capture
from biaslab.datasets.gallery import GalleryDataset, GalleryQuestions
from biaslab.errors import ModelError
from biaslab.evaluation.runner import evaluate
from biaslab.grounder.observer.export import export_geometry
from biaslab.grounder.observer.model import (
    ObserverSize,
    build_model,
    build_processor,
    build_tokenizer,
    shipped_tokenizer,
)
from biaslab.models import known_models, wrap
from biaslab.models.offline.geometry import geometry
from biaslab.models.registry import embedded_folder
from biaslab.pruning import budget, prune
from biaslab.scenes.gallery import visual_tiles

SIZE = ObserverSize(vision_hidden=32, vision_layers=1, vision_heads=2, hidden=48, layers=6, heads=4, kv_heads=2, ffn=64)


@pytest.fixture(scope="module")
def observer():
    tokenizer = shipped_tokenizer()
    model = build_model(tokenizer, size=SIZE, seed=1).eval().requires_grad_(False)
    return wrap(model, build_processor(tokenizer, size=SIZE), name="untrained observer", revision="0")


@pytest.fixture(scope="module")
def samples():
    """Expressions on images of one tile, of two and of six."""
    wanted, found = {1, 3, 7}, {}
    for sample in GalleryDataset("monitor", n=90):
        tiles = visual_tiles(_grid(sample))
        if tiles in wanted:
            found.setdefault(tiles, sample)
    assert set(found) == wanted
    return list(found.values())


def _grid(sample):
    from biaslab.scenes.gallery import grid_of

    return grid_of((sample.width, sample.height))


def encode(observer, samples):
    return observer.encode(
        [s.image() for s in samples], [s.expression for s in samples], sample_ids=[s.id for s in samples]
    )


def test_layouts_are_tiles_and_a_thumbnail(observer, samples):
    for sample, layout in zip(samples, encode(observer, samples).layouts, strict=True):
        assert layout.n == 36 * visual_tiles(_grid(sample))
        assert observer.family.box_space.name == "NORM1000"


def test_it_is_asked_and_located(observer, samples):
    questions = list(GalleryQuestions("monitor", n=2))
    answers = observer.ask([q.image() for q in questions], [q.prompt for q in questions], max_new_tokens=3)
    assert len(answers) == 2 and all(isinstance(answer, str) for answer in answers)
    found = observer.locate_answers([s.image() for s in samples], [s.expression for s in samples], max_new_tokens=4)
    assert len(found) == 3


def test_capture_changes_nothing_and_equals_eager_attention(observer, samples):
    enc = encode(observer, samples)
    assert enc.inputs["attention_mask"].min() == 0  # a padded batch
    tokens, plain = run(observer, enc)
    with capture(observer) as rows:
        seen = run(observer, enc)
    assert torch.equal(seen[0], tokens) and (seen[1] - plain).abs().max() == 0
    for index, attention in enumerate(eager_attention(observer, enc)):
        for row in range(len(enc)):
            own = enc.visual[row, enc.visual_mask[row]]
            got = rows[index].values[row, :, 0, rows[index].mask[row]]
            assert (got - attention[row, :, enc.last, own]).abs().max() <= 1e-4


@pytest.mark.parametrize(("name", "layer"), [("d2pruner", 3), ("fastv", 2), ("divprune", 0)])
def test_pruned_generation_equals_masked_recompute(observer, samples, name, layer):
    enc = encode(observer, samples)
    tokens, plain = run(observer, enc)
    with prune(observer, method_for(name, 1.0), layer):
        same = run(observer, enc)
    assert torch.equal(same[0], tokens) and (same[1] - plain).abs().max() == 0
    with prune(observer, method_for(name, 0.3), layer) as state:
        answer, logits = run(observer, enc)
    assert [len(s.indices) for s in state.selections] == [budget(0.3, x.n) for x in enc.layouts]
    want = oracle(observer, enc.inputs, answer, dropped_positions(enc, state.selections), layer)
    assert (logits - want).abs().max() <= 1e-4


@pytest.mark.long
def test_it_is_evaluated_on_the_gallery(observer, tmp_path):
    data = GalleryDataset("monitor", n=2)
    results = evaluate(
        observer, data, methods=["none", "random"], keep=0.2, layer=2, out=tmp_path, batch_size=2, progress=False
    )
    assert len(results.summary()) >= 2


def test_geometry_is_at_hand_without_weights():
    found = geometry("observer")
    assert found.config.text_config.num_hidden_layers == 12 and found.config.image_seq_length == 36
    row = next(row for row in known_models() if row["alias"] == "observer")
    assert (row["layers"], row["most tokens per image"]) == (12, 252)


def test_a_model_without_weights_says_what_to_do(monkeypatch, tmp_path):
    bare = export_geometry(tmp_path, tokenizer=shipped_tokenizer())
    monkeypatch.setattr("biaslab.models.registry.embedded_folder", lambda name: bare)
    with pytest.raises(ModelError, match="biaslab train-observer") as caught:
        bl.load("observer")
    assert "\n" not in str(caught.value)


@pytest.mark.long
@pytest.mark.parametrize(("name", "least"), [("gallery", 0.5), ("gallery-vqa", 0.62)])
def test_what_ships_answers_about_as_often_as_its_card_says(name, least, tmp_path):
    """66 % of the boxes and 77 % of the questions; the bounds lie three standard errors of 90 samples below."""
    data = bl.load_dataset(name, split="test", n=90)
    results = evaluate(bl.load("observer"), data, methods=["none"], out=tmp_path, batch_size=16, progress=False)
    assert results.verdicts["hit"].astype(float).mean() > least


@pytest.mark.long
def test_shipped_folder_is_what_export_writes(tmp_path):
    """A changed corpus would renumber the tokens under trained weights."""
    folder, shipped = export_geometry(tmp_path, tokenizer=build_tokenizer()), embedded_folder("observer")
    for name in ("tokenizer.json", "config.json", "processor_config.json"):
        got, want = (json.loads((place / name).read_text(encoding="utf-8")) for place in (folder, shipped))
        for state in (got, want):
            for key in ("transformers_version", "padding", "truncation"):  # the last two: what was asked for before
                state.pop(key, None)
        assert got == want, name
