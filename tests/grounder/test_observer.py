import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from commands import run as run_verb

import biaslab as bl
from biaslab.errors import InputError, RunFolderError
from biaslab.grounder.observer import ObserverRecipe, train_observer
from biaslab.grounder.observer import train as run
from biaslab.grounder.observer.batches import GRIDS, IGNORE, LETTERS, TASKS, make_batch, pack, tiles_of
from biaslab.grounder.observer.dialogue import Dialogue
from biaslab.grounder.observer.model import (
    COORDINATES,
    WHATS,
    ObserverSize,
    box_tokens,
    build_processor,
    shipped_tokenizer,
)
from biaslab.grounder.observer.network import TrainingObserver
from biaslab.grounder.observer.plan import WINDOW, Step, steps_of
from biaslab.grounder.training_folder import STAGES
from biaslab.models.registry import embedded_folder
from biaslab.scenes import expressions as ex
from biaslab.scenes.gallery import grid_of, picture, picture_size, visual_tiles
from biaslab.scenes.gallery.forms import plural
from biaslab.scenes.gallery.questions import sample_questions
from biaslab.scenes.gallery.signs import SIGN, WORDS
from biaslab.scenes.objects import COLOURS, SIZES

pytestmark = pytest.mark.slow

SMALL = ObserverSize(
    vision_hidden=32, vision_layers=1, vision_heads=2, hidden=48, layers=3, heads=4, kv_heads=2, ffn=64
)
RECIPE = ObserverRecipe(
    size=SMALL, vision_steps=3, vision_pictures=3, decoder_steps=3, pictures_of_tiles=dict.fromkeys((1, 3, 4, 5, 7), 2),
    expressions=3, questions=3, log_every=1, checkpoint_every=1, monitor_every=3, monitor_pictures=4, aim_layer=2,
)  # fmt: skip


def one_of(grid, n=0):
    """The n-th image of a grid, without drawing the others."""
    return picture("train", [k for k in range(200) if grid_of(picture_size("train", k)) == grid][n])


@pytest.fixture(scope="module")
def tokenizer():
    return shipped_tokenizer()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_observer(tmp_path_factory.mktemp("observer"), recipe=RECIPE, device="cpu", workers=1)


def test_words_that_matter_are_single_tokens(tokenizer):
    vocabulary = tokenizer.get_vocab()
    words = (*WHATS, *map(plural, WHATS), *SIZES, *COLOURS, "yes", "no")
    assert {f"\u0120{w}" for w in words} <= vocabulary.keys()
    assert {*COORDINATES, *LETTERS} <= vocabulary.keys()


def test_full_size_is_what_is_said_of_it():
    from transformers import InternVLForConditionalGeneration

    from biaslab.models.offline.geometry import geometry

    config = geometry("observer").config
    with torch.device("meta"):
        weights = sum(p.numel() for p in InternVLForConditionalGeneration(config).parameters())
    assert weights <= 15_000_000 and 2 * weights <= 30 * 2**20
    assert config.text_config.num_hidden_layers == 12 and config.image_seq_length == 36
    assert config.text_config.num_key_value_heads < config.text_config.num_attention_heads


def test_answers_read_back(tokenizer):
    dialogue = Dialogue(tokenizer, SMALL)
    ids = dialogue.box((0.0, 20.0, 50.0, 200.0), (400, 200))
    assert tokenizer.decode(ids[:-1]) == "[[0, 100, 125, 1000]]" and ids[-1] == tokenizer.eos_token_id
    for word in WORDS + ("7", "42", "905"):
        assert tokenizer.decode(dialogue.answer(word, spelled=True)[:-1]) == word
    for word in (*WHATS, *SIZES, *COLOURS, "yes", "no", "6"):
        assert tokenizer.decode(dialogue.answer(word, spelled=False)[:-1]).strip() == word
    assert "".join(box_tokens((399.0, 0, 400.0, 1.0), (400, 200))).startswith("[[1000,")


def test_tiles_equal_the_processors(tokenizer):
    processor = build_processor(tokenizer)
    for k in range(6):
        shown = picture("train", k)
        ours = tiles_of(shown, ObserverSize())
        turn = "<|im_start|>user\n<IMG_CONTEXT>\nwhat?<|im_end|>\n"
        theirs = processor(images=[shown.image], text=[turn], return_tensors="pt")
        mean, std = (np.array(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        np.testing.assert_allclose((ours.pixels / 255 - mean) / std, theirs["pixel_values"].numpy(), atol=0.01)
        assert len(ours.pixels) == visual_tiles(shown.grid)


def test_visual_tokens_own_what_they_show():
    shown = one_of((3, 2))
    tiles, (columns, rows) = tiles_of(shown, SMALL), shown.grid
    width, height = shown.image.size
    for tile, cell in np.argwhere(tiles.owned):
        row, col = divmod(cell, 6)
        if tile == columns * rows:
            x, y, w, h, origin, scale = col / 6, row / 6, 1 / 6, 1 / 6, (0, 0), (1, 1)
        else:
            origin, scale = (tile % columns, tile // columns), (columns, rows)
            x, y = (origin[0] + col / 6) / columns, (origin[1] + row / 6) / rows
            w, h = 1 / 6 / columns, 1 / 6 / rows
        part = shown.owner[
            int(y * height) : int(np.ceil((y + h) * height)), int(x * width) : int(np.ceil((x + w) * width))
        ]
        thing = shown.things[int(np.bincount(part.ravel(), minlength=2)[1:].argmax())]
        if WHATS[tiles.what[tile, cell]] != thing.name:
            continue  # a tie at the border of a cell
        box = np.array(thing.box.as_tuple()) / (width, height, width, height)
        want = np.clip(box * (*scale, *scale) - (*origin, *origin), 0, 1)
        if sum(t.name == thing.name for t in shown.things) == 1:
            np.testing.assert_allclose(tiles.box[tile, cell], want, atol=1e-5)
    assert tiles.owned.any()


def test_letters_of_a_sign_are_on_its_tokens():
    shown = next(p for p in (picture("train", k) for k in range(80)) if p.text and p.grid == (1, 1))
    tiles = tiles_of(shown, SMALL)
    at = tiles.what[0] == WHATS.index(SIGN)
    text = "".join(LETTERS[k] for k in tiles.letters[0][at][0] if k < len(LETTERS))
    assert text == shown.text and (tiles.letters[0][~at] == IGNORE).all()


@pytest.mark.parametrize("grid", [(1, 1), (1, 3), (3, 2)])
def test_packed_branches_compute_what_separate_conversations_do(tokenizer, grid):
    """Packing must not change any logit: the model sees each branch alone, in the words of the adapter."""
    from biaslab.models import families

    net = TrainingObserver(RECIPE)
    net.model.float()
    shown = [one_of(grid)]
    batch = pack(RECIPE, shown, np.random.default_rng(0), mix=RECIPE.mix)
    with torch.no_grad():
        *_, answers = net.forward(batch)
        net.model.set_attn_implementation("sdpa")
        rng = np.random.default_rng(0)
        said = ex.sample(rng, shown[0].things, 3, mix=RECIPE.mix)
        asked = sample_questions(rng, shown[0].things, shown[0].counted, shown[0].text, n=3)
        processor, family = build_processor(tokenizer, size=SMALL), families()["internvl"]
        size = shown[0].image.size
        pairs = [
            (family.grounding_template.format(e.text), net.dialogue.box(shown[0].things[e.target].box.as_tuple(), size))
            for e in said
        ]
        texts = [(q.text, net.dialogue.answer(q.answer, spelled=q.category == "reading")) for q in asked]
        for group, turns in zip(answers, (pairs, texts), strict=True):
            at = 0
            for text, answer in turns:
                prompt = family.plain_prompt(processor, text, 1)
                inputs = processor(images=[shown[0].image], text=[prompt], return_tensors="pt")
                ids = torch.cat([inputs["input_ids"], torch.tensor([answer[:-1]])], 1)
                out = net.model(input_ids=ids, pixel_values=inputs["pixel_values"]).logits[0]
                alone = out[inputs["input_ids"].shape[1] - 1 :]
                assert group.labels[at : at + len(answer)].tolist() == answer
                torch.testing.assert_close(group.logits[at : at + len(answer)], alone, atol=3e-3, rtol=1e-3)
                at += len(answer)
            assert at == len(group.labels) > 0


def test_right_answers_are_counted_by_task():
    net = TrainingObserver(RECIPE)
    shown = [one_of((2, 2), n) for n in range(2)]
    *_, (boxes, words) = net.forward(pack(RECIPE, shown, np.random.default_rng(0), mix=RECIPE.mix))
    for one in (boxes, words):
        one.logits = torch.nn.functional.one_hot(one.labels, one.logits.shape[1]).float()
    counts = net.right(boxes, words)
    assert counts[:, 1].sum() == (boxes.task >= 0).sum() + (words.task >= 0).sum() > 8
    assert torch.equal(counts[:, 0], counts[:, 1])
    words.logits = words.logits.roll(1, 1)
    assert net.right(boxes, words)[3:, 0].sum() == 0


def test_steps_are_the_same_whenever_they_begin():
    recipe = replace(RECIPE, decoder_steps=1200)
    whole = list(steps_of(recipe, "decoder"))
    assert len(whole) == 1200 and list(steps_of(recipe, "decoder", start=950)) == whole[950:]
    used = [k for step in whole for k in step.pictures]
    assert len(used) == len(set(used))
    for step in whole[:30]:
        assert len({visual_tiles(grid_of(picture_size("train", k))) for k in step.pictures}) == 1
    easy = [step.easy for step in whole]
    assert 0.15 * 1200 <= sum(easy) < 0.15 * 1200 + WINDOW / 2 and easy == sorted(easy, reverse=True)  # whole windows
    assert not any(step.easy for step in steps_of(replace(RECIPE, leg=1), "decoder"))


def test_shares_make_up_the_batch():
    for stage in STAGES:
        batch = make_batch(RECIPE, next(steps_of(RECIPE, stage)))
        parts = [batch.part(k, 2) for k in range(2)]
        assert np.array_equal(np.concatenate([p.tiles.pixels for p in parts]), batch.tiles.pixels)
        if stage == "decoder":
            assert np.array_equal(np.concatenate([p.expressions.ids for p in parts]), batch.expressions.ids)
            per = len(batch.tiles.pixels) // len(batch.grid)
            assert all(len(p.tiles.pixels) == per * len(p.grid) > 0 for p in parts)


def test_threads_take_the_gradients_that_one_after_the_other_would(tmp_path):
    net_run = run._Run(RECIPE, tmp_path, "cpu", 2, 0)
    batch = make_batch(RECIPE, next(steps_of(RECIPE, "decoder")))
    parameters = [p for _, p in net_run.net.named_parameters("decoder")]
    net_run._gradients(net_run.net.decoder_loss, batch, parameters)
    together = [None if p.grad is None else p.grad.clone() for p in parameters]
    parts = []
    for k in range(2):
        loss, _ = net_run.net.decoder_loss(batch.part(k, 2))
        parts.append(torch.autograd.grad(loss, parameters, allow_unused=True))
    for got, a, b in zip(together, *parts, strict=True):
        assert got is not None and torch.equal(got, torch.stack([a, b]).sum(0) / 2)


def test_an_interrupted_run_ends_at_the_same_weights(trained, tmp_path, monkeypatch):
    """Without a worker, killed twice, it draws and learns what the other run did with one."""

    class Killed(Exception):
        pass

    after_step, calls = run._Run._after_step, []

    def dying(self, *args):
        after_step(self, *args)
        calls.append(1)
        if len(calls) in (2, 4):
            raise Killed

    monkeypatch.setattr(run._Run, "_after_step", dying)
    for _ in range(2):
        with pytest.raises(Killed):
            train_observer(tmp_path, recipe=RECIPE, device="cpu", workers=0, progress=False)
    resumed = train_observer(tmp_path, recipe=RECIPE, device="cpu", workers=0, progress=False)
    a, b = (torch.load(p, weights_only=True)["model"] for p in (trained, resumed))
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert len(calls) == RECIPE.vision_steps + RECIPE.decoder_steps
    curves = [
        [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]
        for path in (trained.parent / "curve.jsonl", tmp_path / "curve.jsonl")
    ]
    assert curves[0] == curves[1]


def test_a_line_of_the_curve_is_the_mean_of_the_steps_behind_the_line_before(trained, tmp_path, monkeypatch):
    """Where a run goes on between two lines, and at the end."""
    single = [json.loads(line) for line in (trained.parent / "curve.jsonl").read_text().splitlines()]
    loss = {(x["stage"], x["step"]): x["loss"] for x in single if "loss" in x}
    after_step, recipe = run._Run._after_step, replace(RECIPE, log_every=2)

    def dying(self, *args):
        after_step(self, *args)
        if args[0] == "vision" and args[1].step_number == 1:
            raise InterruptedError

    with monkeypatch.context() as patched:
        patched.setattr(run._Run, "_after_step", dying)
        with pytest.raises(InterruptedError):
            train_observer(tmp_path, recipe=recipe, device="cpu", workers=0, progress=False)
    train_observer(tmp_path, recipe=recipe, device="cpu", workers=0, progress=False)
    lines = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    found = {(x["stage"], x["step"]): x["loss"] for x in lines if "loss" in x}
    first, second = loss["decoder", 1], loss["decoder", 2]
    assert found == {
        ("vision", 2): loss["vision", 2], ("vision", 3): loss["vision", 3], ("decoder", 3): loss["decoder", 3],
        ("decoder", 2): pytest.approx((first + second) / 2, abs=1e-5),
    }  # fmt: skip


def test_learning_curve_and_finished_run(trained):
    lines = [json.loads(line) for line in (trained.parent / "curve.jsonl").read_text().splitlines()]
    assert [(x["stage"], x["step"]) for x in lines if "loss" in x] == [
        (stage, step) for stage in STAGES for step in (1, 2, 3)
    ]
    monitors = [x for x in lines if "monitor" in x]
    assert set(monitors[0]["monitor"]) <= {*TASKS, "boxes", "questions", "n"} and monitors[0]["unfamiliar"]["n"] > 0
    before = trained.stat().st_mtime_ns
    assert train_observer(trained.parent, recipe=RECIPE, device="cpu").stat().st_mtime_ns == before


def test_a_few_steps_on_one_batch_learn_it():
    """The losses go down together: nothing is wired to the wrong row."""
    from biaslab.grounder.optimiser import MuonAdamW

    net = TrainingObserver(RECIPE)
    shown = [one_of((2, 1), n) for n in range(2)]
    batch = pack(RECIPE, shown, np.random.default_rng(0), mix=RECIPE.mix)
    optimiser = MuonAdamW(
        net.named_parameters("decoder"), muon_rate=0.02, adamw_rate=3e-3, steps=30, warmup=3, final_rate=0.1
    )
    losses, first = [], {}
    for _ in range(25):
        loss, measured = net.decoder_loss(batch)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        first = first or measured
    assert losses[-1] < 0.7 * losses[0]
    for name in ("answer", "gather", "aim", "tile", "grid"):
        assert float(measured[name]) < 0.85 * float(first[name]), name


def test_rows_that_are_to_know_the_target_are_compared_with_its_box():
    net = TrainingObserver(RECIPE)
    batch = pack(RECIPE, [one_of((2, 1), n) for n in range(2)], np.random.default_rng(0), mix=RECIPE.mix)
    torch.nn.init.zeros_(net.heads.aim.weight)
    torch.nn.init.zeros_(net.heads.aim.bias)  # a probe that says 0 errs by the box itself
    said = batch.expressions
    words = net.dialogue.tokenizer.convert_ids_to_tokens
    errors = []
    for image, branch in np.argwhere(said.task >= 0):
        answer = [words(int(t)) for t in said.labels[image, branch] if t >= 0]
        box = [int(w) / 1000 for w in answer if w.isdigit()]
        assert len(box) == 4
        errors += [np.mean(box)] * said.gather[image, branch].sum()
    assert float(net.decoder_loss(batch)[1]["aim"]) == pytest.approx(np.mean(errors), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"recipe": replace(RECIPE, seed=1)}, RunFolderError, "another recipe"),
        ({"recipe": RECIPE, "threads": 0}, InputError, "at least 1 thread"),
        ({"recipe": RECIPE, "workers": -1}, InputError, "no fewer than 0 workers"),
        (
            {"recipe": replace(RECIPE, leg=1)},
            InputError,
            "leg 1 of the training needs --from a folder of leg 0, none is",
        ),
        ({"recipe": RECIPE, "start": "nowhere"}, InputError, "nowhere has no model.safetensors and no probes.safe"),
    ],
)
def test_bad_input_is_refused_in_one_line(trained, options, error, says):
    with pytest.raises(error, match=says) as caught:
        train_observer(trained.parent, **options)
    assert "\n" not in str(caught.value)


def test_every_grid_of_the_gallery_has_a_class():
    assert {grid_of(picture_size("train", k)) for k in range(300)} == set(GRIDS)
    assert Step("decoder", 0, (1,)).easy is False


def test_exported_folder_loads_with_plain_from_pretrained(trained, tmp_path):
    from transformers import AutoTokenizer, InternVLForConditionalGeneration

    from biaslab.grounder.observer.export import export_observer

    folder = export_observer(trained, tmp_path / "observer", size=SMALL)
    model = InternVLForConditionalGeneration.from_pretrained(folder)
    assert model.dtype == torch.float32
    state = torch.load(trained, weights_only=True)["model"]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[name].half().float(), atol=0, rtol=0)
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == shipped_tokenizer().get_vocab()
    export_observer(trained.parent / "checkpoint.pt", tmp_path / "on the way", size=SMALL)


def test_a_further_leg_goes_on_from_exported_weights(trained, tmp_path):
    from biaslab.grounder.observer.export import export_observer
    from biaslab.grounder.observer.start import start_of
    from biaslab.workflows.train_observer import build_observer

    first = export_observer(trained, tmp_path / "first", size=SMALL)
    (first / "training.jsonl").write_text((trained.parent / "curve.jsonl").read_text())
    options = {"threads": 1, "workers": 0, "n_test": 0, "device": "cpu", "progress": False}
    second = build_observer(tmp_path / "second", recipe=RECIPE, start=first, **options).folder
    assert (start_of(first).leg, start_of(second).leg) == (0, 1)
    lines = [json.loads(line) for line in (second / "training.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line.get("leg") == 1 and "loss" in line] == [1, 2, 3]
    assert {line["stage"] for line in lines if "leg" not in line} == set(STAGES)  # the curve of the leg before
    a, b = (bl.load(str(folder)).model.state_dict() for folder in (first, second))
    assert not any(torch.equal(a[n], b[n]) for n in a if "lm_head" in n)
    assert all(torch.equal(a[n], b[n]) for n in a if "vision_tower" in n)  # frozen in the decoder stage
    images = [set(next(steps_of(replace(RECIPE, leg=leg), "decoder")).pictures) for leg in (0, 1)]
    assert not images[0] & images[1]
    with pytest.raises(InputError, match="leg 1 of the training needs --from a folder of leg 0, .*is of leg 1"):
        train_observer(tmp_path / "third", recipe=replace(RECIPE, leg=1), start=second)
    other = replace(RECIPE, size=replace(SMALL, ffn=32), leg=1)
    with pytest.raises(InputError, match="another size than the recipe's"):
        train_observer(tmp_path / "fourth", recipe=other, start=first, device="cpu")


def test_a_frozen_tower_gets_no_gradient_and_another_does():
    batch = make_batch(RECIPE, next(steps_of(RECIPE, "decoder")))
    for rate, learns in ((0.0, False), (0.3, True)):
        net = TrainingObserver(replace(RECIPE, tower_rate=rate))
        net.decoder_loss(batch)[0].backward()
        tower = [p.grad is not None for n, p in net.model.named_parameters() if "vision_tower.encoder" in n]
        assert len(tower) > 8 and all(grad is learns for grad in (any(tower), all(tower)))
        assert any("vision_tower" in n for n, _ in net.named_parameters("decoder")) is learns


@pytest.mark.long
def test_a_run_ends_with_a_card_that_says_what_was_measured(trained, tmp_path):
    from biaslab.workflows.observer_accuracy import observer_accuracy
    from biaslab.workflows.train_observer import build_observer

    report = build_observer(
        tmp_path, recipe=RECIPE, weights=trained.parent / "weights.pt", n_test=4, threads=1, progress=False
    )
    card = (report.folder / "README.md").read_text()
    assert "{" not in card and f"hidden {SMALL.hidden}," in card and "Not measured" not in card
    rows = {(row["data"], row["task"], row["part"]): row for row in report.accuracy}
    assert rows["familiar", "boxes", "all"]["n"] == 4 and rows["both", "questions", "all"]["n"] == 2
    for data, task in {key[:2] for key in rows}:
        own = {part: row["n"] for (d, t, part), row in rows.items() if (d, t) == (data, task)}
        assert own["all"] == sum(n for part, n in own.items() if part.endswith(("tile", "tiles")))
    again = observer_accuracy(bl.load(str(report.folder)), n=4, out=tmp_path / "test", progress=False)
    assert again["accuracy"].tolist() == [row["accuracy"] for row in report.accuracy]  # from the logs


def test_what_ships_is_of_the_recipe_s_size_and_answers_in_its_form():
    from biaslab.grounder.observer.start import start_of

    folder = embedded_folder("observer")
    start_of("observer").load_into(TrainingObserver(ObserverRecipe()))  # refuses another size
    *_, last = (folder / "training.jsonl").read_text().splitlines()
    assert start_of(folder).leg == json.loads(last)["leg"] > 0
    vlm = bl.load("observer")
    sample = next(iter(bl.load_dataset("gallery", n=1)))
    (answer,) = bl.compare_methods(vlm, sample.image(), sample.expression, methods=["none"], keep=1.0)
    assert answer.answer.box is not None and answer.answer.text.startswith("[[")


def test_an_accuracy_of_too_few_images_has_no_interval():
    from biaslab.workflows.observer_accuracy import accuracy_markdown

    row = {"data": "familiar", "task": "questions", "part": "all", "n": 4, "accuracy": 0.5, "unparsed": 0, "errors": 0}
    assert "| all | 50.0 (4) |" in accuracy_markdown(pd.DataFrame([row | {"lo": np.nan, "hi": np.nan}]))
    assert "| all | 50.0 [20.0, 80.0] (4) |" in accuracy_markdown(pd.DataFrame([row | {"lo": 0.2, "hi": 0.8}]))


def test_the_verb_hands_on_the_recipe_that_it_is_told(capsys, monkeypatch, tmp_path):
    from biaslab.workflows import train_observer as workflow

    calls = []
    report = workflow.ObserverReport(tmp_path, [], "", [])
    monkeypatch.setattr(workflow, "build_observer", lambda out, **given: calls.append(given) or report)
    told = ("--from", "x", "--decoder-steps", 7, "--rates", 0.5, "--tower-rate", 0.25)
    status, *_ = run_verb(capsys, "train-observer", "--out", tmp_path, *told)
    usual, recipe = ObserverRecipe(), calls[0]["recipe"]
    assert status == 0 and calls[0]["start"] == "x"
    halved = {"decoder_muon": usual.decoder_muon / 2, "decoder_adamw": usual.decoder_adamw / 2}
    assert recipe == replace(usual, decoder_steps=7, tower_rate=0.25, **halved)
    status, _, err = run_verb(capsys, "train-observer", "--out", tmp_path, "--rates", 0)
    assert status == 2 and "--rates" in err and len(calls) == 1
    status, _, err = run_verb(capsys, "train-observer", "--out", tmp_path, "--tower-rate", -1)
    assert status == 2 and "--tower-rate" in err and len(calls) == 1
