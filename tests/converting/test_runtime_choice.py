"""`convert --runtime`: which versions of gemma.cpp a plan says run its file, and what is made for one of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import blobstore
from blobstore.checking.checkpoint import check_plan
from blobstore.checking.config import check_config
from blobstore.checking.findings import runs_in
from blobstore.checking.runtime import check_file
from blobstore.checkpoint.reader import open_checkpoint
from blobstore.cli import main
from blobstore.container.layout import MAX_BLOBS
from blobstore.converting import run
from blobstore.converting.choices import WEIGHTS, Choices
from blobstore.converting.plan import too_many_blobs
from blobstore.converting.runtime_choice import as_chosen
from blobstore.converting.verify import plan_again
from blobstore.edit.rewrite import Edits, apply_edits
from blobstore.errors import CheckpointError, UsageError
from blobstore.gemma.config import ModelConfig
from blobstore.gemma.enums import Model, WeightType, Wrapping
from blobstore.gemma.families.sizes import Dimensions
from blobstore.gemma.models import DIMENSIONS, config_of, model_config, specifier_of
from blobstore.gemma.versions import NAMES
from blobstore.index.metadata import CHOICES
from tests.converting.test_gemma_families import GEMMA3, SIZES, real
from tests.gemma.test_config import BY_COMMIT
from tests.gemma4_checkpoints import TINY
from tests.gemma_checkpoints import NEW, SOUND, TEXT_ONLY, Recipe, convert, plan_of, recipes, sound_recipe, write_sparse
from tests.models import FAMILIES, VISION

if TYPE_CHECKING:
    from pathlib import Path

    from blobstore.index.locate import IndexPlace
    from tests.gemma_checkpoints import Config

OLD, APRIL, LATEST = NAMES
LARGE = ("gemma3-4b", "gemma3-12b", "gemma3-27b")
# A plan knows no scales. Of the encoded types only a weight of one row is a vector, and that can't be loaded anyway.
UNPLANNED = "scale-ignored"


def with_bases(recipe: Recipe, bases: tuple[float, float] | None) -> Config:
    """Return the recipe's config.json with RoPE bases, of local layers and of global ones."""
    config = recipe.config()
    if bases is not None:
        config.get("text_config", config).update(rope_local_base_freq=bases[0], rope_theta=bases[1])
    return config


def text_only(folder: Path, name: str, **said: Any) -> Path:  # noqa: ANN401 (of config.json)
    """Write a checkpoint of zeros in the shapes of a published model, without its vision part."""
    recipe = replace(real(name)[0], family="gemma3", prefixes=TEXT_ONLY)
    return write_sparse(folder, recipe, GEMMA3 | SIZES[name] | said)


def errors_for(path: Path, runtime: str) -> set[str]:
    """Return the codes of what keeps a version of gemma.cpp from running a file."""
    findings = check_file(path, for_runtime=True, runtimes=(runtime,))
    return {finding.code for finding in findings if finding.severity == "error"}


def agree(source: Path, out: Path, **choices: Any) -> None:  # noqa: ANN401 (of a conversion)
    """Assert that a plan says of its file what `check` does, for each runtime."""
    done = blobstore.convert(source, out, **choices)
    preview = blobstore.preview_conversion(source, **choices)
    checkup = blobstore.check(out)
    assert done.runs_in == preview.runs_in == checkup.runs_in
    by_default = out.read_bytes()
    assert checkup.runs_in is not None
    for name in NAMES:
        errors = errors_for(out, name)
        if not errors:
            assert blobstore.convert(source, out, runtime=name, **choices).runs_in == checkup.runs_in
            assert out.read_bytes() == by_default  # a runtime changes nothing but the numbers of text-only models
            continue
        assert name not in checkup.runs_in
        with pytest.raises(CheckpointError, match=r"cannot-convert: .*, or leave out --runtime") as caught:
            blobstore.convert(source, out, runtime=name, **choices)
        assert {fault.reason for fault in caught.value.faults} == errors - {UNPLANNED}
        assert UNPLANNED not in errors or "rows" in errors
        assert all(f"--runtime {first}" in str(caught.value) for first in checkup.runs_in[:1])
        with pytest.raises(CheckpointError) as again:
            blobstore.preview_conversion(source, runtime=name, **choices)
        assert str(again.value) == str(caught.value)
        assert out.read_bytes() == by_default


BASES = [None, (1e4, 1e4), (1e4, 5e5), (2e4, 1e6)]


CASES = [(family, bases) for family in FAMILIES for bases in (BASES if "gemma3" in family else [None])]


@pytest.mark.parametrize(("family", "bases"), CASES)
def test_a_plan_says_what_check_says_of_its_file(
    tmp_path: Path, family: str, bases: tuple[float, float] | None
) -> None:
    recipe = sound_recipe(family)
    agree(recipe.write(tmp_path / "c", None, with_bases(recipe, bases)), tmp_path / "m.sbs")


@pytest.mark.parametrize("name", ["t5gemma", *TINY])
def test_of_the_models_of_later_runtimes_too(tmp_path: Path, name: str) -> None:
    recipe = TINY[name] if name in TINY else sound_recipe(name)
    source = recipe.write(tmp_path / "c")
    agree(source, tmp_path / "m.sbs")
    assert blobstore.verify(tmp_path / "m.sbs", against=source).ok


@settings(max_examples=8)
@example(  # queries of one row, with a scale
    recipe=Recipe("gemma2", size=replace(SOUND, heads=1, kv_heads=1, head=1), top=9.0),
    weights="sfp",
    bases=None,
    index="embedded",
)
@given(
    # Images of other sizes are refused, whatever the runtime.
    recipe=recipes(("bf16",)).filter(lambda recipe: recipe.family != "gemma3vlm"),
    weights=st.sampled_from(WEIGHTS),
    bases=st.sampled_from(BASES),
    index=st.sampled_from(["embedded", "external"]),
)
def test_of_any_checkpoint_a_plan_says_what_check_says_of_its_file(
    tmp_path_factory: pytest.TempPathFactory,
    recipe: Recipe,
    weights: str,
    bases: tuple[float, float] | None,
    index: IndexPlace,
) -> None:
    rows = recipe.rows("split")
    assume(weights in {row.stored_type(weights) for row in rows})  # not if q4_0 has no tensor with enough columns
    folder = tmp_path_factory.mktemp("c")
    source = recipe.write(folder / "c", None, with_bases(recipe, bases if "gemma3" in recipe.family else None))
    agree(source, folder / "m.sbs", weights=weights, index=index)


def test_what_a_runtime_computes_wrongly_without_a_word_is_refused_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = sound_recipe("gemma3")
    source, out = str(recipe.write(tmp_path / "c", None, with_bases(recipe, (1e4, 5e5)))), str(tmp_path / "m.sbs")
    for name in (OLD, APRIL):
        assert main(["convert", source, "-o", out, "--runtime", name]) == 1
        printed = capsys.readouterr().err
        assert "ignored-fields: config: it has global_rope_theta" in printed or "use_global_timescale" in printed
        assert "gemma.cpp latest can: --runtime latest" in printed
        assert not (tmp_path / "m.sbs").exists()
        # `check` says the same of the checkpoint.
        assert main(["check", source, "--for", f"gemma.cpp@{name}"]) == 1
        assert "ignored-fields" in capsys.readouterr().out
    assert main(["check", source, "--for", f"gemma.cpp@{LATEST}"]) == 0
    assert main(["convert", source, "-o", out, "--runtime", LATEST]) == 0
    assert main(["verify", out, "--against", source]) == 0


def test_270m_in_october_is_told_and_not_refused(tmp_path: Path) -> None:
    """No file can help there: that runtime takes the base from the number."""
    source = write_sparse(tmp_path / "c", *real("gemma3-270m"))
    preview = blobstore.preview_conversion(source, runtime=OLD)
    assert preview.runs_in == (APRIL, LATEST)
    assert "the file runs correctly in gemma.cpp 2026-04 and latest; not in 2025-10 (rope-by-label)" in preview.notes
    with pytest.raises(CheckpointError, match=r"rope-by-label.*, or leave out --strict") as caught:
        blobstore.preview_conversion(source, runtime=OLD, strict=True)
    assert str(caught.value).endswith("gemma.cpp 2026-04 and latest can: --runtime 2026-04")


# ----------------------------------------------------------------------------------------- Gemma 3 without vision part


@pytest.mark.parametrize(("weight", "wrapping"), [("sfp", "it"), ("bf16", "pt")])
@pytest.mark.parametrize("name", LARGE)
def test_the_latest_gets_a_text_only_gemma_3_as_it_writes_it_but_with_the_word(
    tmp_path: Path, name: str, wrapping: str, weight: str
) -> None:
    source = text_only(tmp_path / "c", name)
    plan = plan_of(source, Choices(weight, "split", wrapping, runtime=LATEST))
    assert plan.config is not None
    specifier = f"{name}-lm-{weight}-{wrapping}"
    assert specifier_of(plan.config) == specifier
    assert plan.config == config_of(specifier)
    fact = BY_COMMIT["0224dcb"][specifier]
    theirs = replace(plan.config, use_global_timescale=False).to_bytes()
    assert (len(theirs), hashlib.sha256(theirs).hexdigest()) == (fact["size"], fact["sha256"])
    assert plan.config.layer_configs[0].qkv_dim == (128 if "27b" in name else 256)
    # Everything else is that of the file for all runtimes.
    other = plan_of(source, Choices(weight, "split", wrapping))
    assert other.config is not None
    assert other.config.model == config_of(f"{name}-sfp").model
    assert (plan.tensors, plan.parts, plan.aliases) == (other.tensors, other.parts, other.aliases)


def test_the_runtime_of_a_text_only_gemma_3_is_recorded_where_it_changes_the_file(tmp_path: Path) -> None:
    source = text_only(tmp_path / "c", "gemma3-4b")
    preview = blobstore.preview_conversion(source, runtime=LATEST)
    assert (preview.model, preview.runs_in) == ("gemma3-4b-lm-sfp-pt", (LATEST,))
    # `verify --against` makes the same config of it.
    for runtime in (None, *NAMES):
        plan = plan_of(source, Choices(runtime=runtime))
        assert json.loads(plan.metadata[CHOICES]).get("runtime") == (runtime if runtime == LATEST else None)
        with blobstore.create(tmp_path / "m.sbs", metadata={}) as store:
            store["x"] = [1.0]
            store.metadata |= {key: value for key, value in plan.metadata.items() if key == CHOICES}
        with blobstore.open(tmp_path / "m.sbs") as made, open_checkpoint(source) as checkpoint:
            assert plan_again(made, checkpoint).config == plan.config


@pytest.mark.parametrize("runtime", ["later", 3, ["latest"]])
def test_a_record_of_a_runtime_that_does_not_exist_is_refused(tmp_path: Path, runtime: object) -> None:
    source = sound_recipe("gemma3").write(tmp_path / "c")
    choices = {"weights": "sfp", "layout": "split", "wrapping": "pt", "runtime": runtime}
    with blobstore.create(tmp_path / "m.sbs") as store:
        store["x"] = [1.0]
        store.metadata[CHOICES] = json.dumps(choices)
    with pytest.raises(UsageError, match=r"not-converted: .* can't be read"):
        blobstore.verify(tmp_path / "m.sbs", against=source)


def test_other_models_have_one_number_in_all_runtimes() -> None:
    """Among them 4B with its vision part, and text-only fine-tunes of other dimensions, which are labelled 1B."""
    for model in (*DIMENSIONS, Model.CUSTOM):
        config = model_config(model, WeightType.BF16) if model in DIMENSIONS else ModelConfig(model=model)
        assert all(as_chosen(config, runtime) == config for runtime in (None, *NAMES))


def test_a_vision_part_that_is_missing_makes_a_text_only_model(tmp_path: Path) -> None:
    vision, config = real("gemma3-4b")
    recipe = replace(vision, family="gemma3", prefixes=(NEW[0], "", ""))
    source = write_sparse(tmp_path / "c", recipe, config)
    plan = plan_of(source, Choices(runtime=LATEST))
    assert plan.config is not None
    assert plan.config.model == Model.GEMMA3_4B_LM
    assert plan.config.wrapping == Wrapping.PT


def test_a_text_only_gemma_3_for_the_latest_is_verified_exported_and_compared_like_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out, back = sound_recipe("gemma3"), tmp_path / "m.sbs", tmp_path / "back.safetensors"
    source, size = recipe.write(tmp_path / "c"), recipe.size
    sizes = (size.layers, size.width, size.hidden, size.heads, size.kv_heads, size.head)
    monkeypatch.setitem(DIMENSIONS, Model.GEMMA3_4B, Dimensions("", *sizes))  # the published model is small here
    done = blobstore.convert(source, out, weights="bf16", runtime=LATEST)
    assert (done.model, done.runs_in) == ("gemma3-4b-lm-bf16-pt", (LATEST,))
    assert blobstore.check(out).runs_in == (LATEST,)
    assert blobstore.verify(out, against=source).ok
    assert not blobstore.repair(out).changes
    assert blobstore.diff(out, source).counts.keys() <= {"same", "alias"}
    blobstore.export(out, back)
    assert blobstore.diff(back, source).counts.keys() <= {"same", "alias", "metadata"}
    # `verify` reads which runtime it was made for, and says so of a file that was made for another.
    blobstore.convert(source, tmp_path / "all.sbs", weights="bf16")
    assert blobstore.verify(tmp_path / "all.sbs", against=source).ok
    with blobstore.BlobReader(tmp_path / "all.sbs") as reader:
        older = bytes(reader["config"])
    apply_edits(out, tmp_path / "mixed.sbs", Edits(config=older))
    assert main(["verify", str(tmp_path / "mixed.sbs"), "--against", str(source)]) == 1
    assert "model is GEMMA3_4B, the source makes it GEMMA3_4B_LM" in capsys.readouterr().out


def test_a_file_of_the_latest_that_lacks_the_word_is_repaired(tmp_path: Path) -> None:
    source, made, late = sound_recipe("gemma3").write(tmp_path / "c"), tmp_path / "m.sbs", tmp_path / "late.sbs"
    convert(source, made, Choices("bf16"))
    with blobstore.open(made, by="keys") as store:
        assert store.config is not None
        own = config_of("gemma3-4b-lm-bf16-pt")
        config = replace(store.config, model=own.model, display_name=own.display_name, use_global_timescale=False)
        config = replace(config, extent=45)
        with blobstore.ModelWriter(late, config, tokenizer=store.tokenizer) as model:
            for key, values in store.items():
                model.add(key, values)
    # It lacks the word, as gemma.cpp's own do.
    assert [finding.code for finding in blobstore.check(late).findings if finding.severity == "error"] == [
        "global-rope"
    ]
    assert blobstore.repair(late).changes == {"use_global_timescale": (False, True)}
    assert blobstore.check(late).runs_in == (LATEST,)
    assert blobstore.diff(late, made, by="keys").counts == {"same": 26, "blob": 1, "metadata": 1}  # the blob config
    blobstore.export(made, tmp_path / "a.safetensors", by="keys")
    blobstore.export(late, tmp_path / "b.safetensors", by="keys")
    counts = blobstore.diff(tmp_path / "a.safetensors", tmp_path / "b.safetensors").counts
    assert counts == {"same": 26, "metadata": 1}


# ------------------------------------------------------------------------------------------------------------- options


def test_a_runtime_is_one_of_three(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = sound_recipe("gemma3").write(tmp_path / "c")
    with pytest.raises(UsageError, match="bad-choice: runtime: 'later' is not one of 2025-10, 2026-04, latest"):
        blobstore.preview_conversion(source, runtime="later")
    # By name, too: it says how many tensors a file may have.
    assert blobstore.preview_conversion(source, as_="names", runtime=LATEST).model is None
    with pytest.raises(SystemExit) as caught:
        main(["convert", str(source), "--dry-run", "--runtime", "2024-01"])
    assert caught.value.code == 2
    capsys.readouterr()
    assert main(["convert", str(source), "--dry-run", "--runtime", OLD, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs_in"] == [*NAMES]


def test_i8_in_the_stock_layout_is_for_the_latest_only(tmp_path: Path) -> None:
    """It splits such tensors by decoding them, by its source; the older ones hang."""
    source, out = sound_recipe("gemma3").write(tmp_path / "c"), tmp_path / "m.sbs"
    for runtime in (None, OLD, APRIL):
        with pytest.raises(UsageError, match=r"i8-stock: .*: use --weights sfp, --layout split, or --runtime latest"):
            blobstore.preview_conversion(source, weights="i8", layout="stock", runtime=runtime)
    assert blobstore.convert(source, out, weights="i8", layout="stock", runtime=LATEST).runs_in == (LATEST,)
    assert blobstore.check(out).runs_in == (LATEST,)
    assert blobstore.verify(out, against=source).ok


# --------------------------------------------------------------------------------------------------------------- blobs


@pytest.mark.parametrize("index", ["embedded", "external"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_plan_knows_how_many_blobs_its_file_has(
    tmp_path: Path, family: str, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "MAX_PORTABLE_BLOBS", 1)  # so that the writer takes as many as were planned, and no more
    plan = convert(sound_recipe(family).write(tmp_path / "c"), tmp_path / "m.sbs", Choices("bf16"), index=index)
    assert len(blobstore.BlobReader(tmp_path / "m.sbs")) == plan.blob_count(embedded=index == "embedded")
    assert len(plan.extras) == (family in VISION)


@pytest.mark.parametrize(
    ("count", "expected"), [(16384, NAMES), (16385, (LATEST,)), (MAX_BLOBS, (LATEST,)), (MAX_BLOBS + 1, ())]
)
def test_a_plan_of_many_blobs_is_for_the_runtimes_that_read_so_many(
    tmp_path: Path, count: int, expected: tuple[str, ...]
) -> None:
    plan = plan_of(sound_recipe("gemma3vlm").write(tmp_path / "c"), Choices())
    plan.extras *= count - plan.blob_count(embedded=True) + 1
    assert plan.blob_count(embedded=True) == count
    assert runs_in(check_plan(plan, "c")) == expected
    fault = too_many_blobs(count)
    assert (fault is not None) == (not expected)
    assert fault is None or fault.reason == "too-many-blobs"


def test_a_model_writer_takes_as_many_blobs_as_it_is_told(tmp_path: Path) -> None:
    config = config_of("gemma3-270m-sfp-it")
    writer = blobstore.ModelWriter(tmp_path / "m.sbs", config, max_blobs=2)
    writer.add("c_final_norm", [0.0] * 640)
    with pytest.raises(UsageError, match="too-many-blobs: 'pre_att_ns_0' would be one more than the 2 blobs that this"):
        writer.add("pre_att_ns_0", [0.0] * 640)
    writer.discard()


# ------------------------------------------------------------------------------------------------------------ the table


RUNS_IN = {Model.GEMMA3_270M: (APRIL, LATEST)}  # all others: in all, or in the latest only
HAVING_A_CONFIG = [model for model in Model if model not in (Model.UNKNOWN, Model.CUSTOM, Model.DEEPSEEK4_FLASH)]


@pytest.mark.parametrize("model", HAVING_A_CONFIG)
def test_which_runtimes_run_a_published_model(model: Model) -> None:
    expected = RUNS_IN.get(model, NAMES if model < Model.CUSTOM else (LATEST,))
    assert runs_in(check_config(model_config(model, WeightType.SFP))) == expected
