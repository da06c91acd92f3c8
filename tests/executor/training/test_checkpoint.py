import errno
import functools
import itertools
import json
import pickle
import random
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from shardwright.base.errors import SpecError
from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.training import checkpoint, manifest
from shardwright.executor.training.manifest import (
    MANIFEST,
    Manifest,
    checksum,
    complete_checkpoints,
    damaged_file,
    newest_checkpoint,
    read_manifest,
)
from shardwright.specs.plan import Plan
from tests.executor.runs import VOCABULARY, losses, options, text_file, tiny
from tests.parity.cases import FamilyName, layers, plan, plan_file
from tests.parity.families import FAMILIES
from tests.parity.worlds import RankFailedError

FSDP = plan((layers(zero=3),), dp_shard=2)
PLANS: dict[str, Plan] = {
    "one process": plan((layers(),)),
    "zero1": plan((layers(zero=1),), dp_shard=2),
    "uneven shards": plan((layers(zero=3),), dp_shard=4),
    "tp": plan((layers(),), tp=2),
    "tp x fsdp": plan((layers(zero=2),), tp=2, dp_shard=2),
    "hsdp": plan((layers(zero=3),), dp_replicate=2, dp_shard=2),
    "pp": plan((layers(1),), (layers(1),), pp=2),
    "pp x tp x fsdp": plan((layers(1, zero=2),), (layers(1, zero=2),), pp=2, tp=2, dp_shard=2),
    "cp x tp x fsdp": plan((layers(zero=3),), cp=2, tp=2, context_parallel="ring"),
    "offload": plan((layers(zero=3),), dp_shard=2, offload=True),
}


def _experts(divided: Plan) -> PlanFile:
    file = plan_file({**FAMILIES["qwen3_moe"], "vocab_size": VOCABULARY}, divided)
    return file.model_copy(update={"training": file.training.model_copy(update={"optimizer": "adamw"})})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[Path, list[float]]:
    """A checkpoint after step 3 of six uninterrupted FSDP steps, and their losses."""
    folder = tmp_path_factory.mktemp("straight")
    found = losses(tiny(FSDP), options(folder, data=data))
    assert found[0] - found[-1] > 0.1, "a run that learns nothing would resume well from anything"
    return folder / "checkpoints" / "step-000003", found


@pytest.fixture
def copied(straight: tuple[Path, list[float]], tmp_path: Path) -> Path:
    """A checkpoint to damage."""
    return shutil.copytree(straight[0], tmp_path / "step-000003")


def refused(checkpoint: Path, plan_file: PlanFile | None = None) -> str:
    with pytest.raises(SpecError) as caught:
        read_manifest(checkpoint, plan_file or tiny(FSDP))
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestResume:
    def test_a_killed_run_continues_with_the_same_losses_to_the_last_digit(
        self, tmp_path: Path, data: Path, straight: tuple[Path, list[float]]
    ) -> None:
        run = options(tmp_path / "run", data=data)
        with pytest.raises(RankFailedError, match="Stopped"):
            losses(tiny(FSDP), run, stop_after_step=4)
        assert newest_checkpoint(run.out / "checkpoints") == run.out / "checkpoints" / "step-000003"
        assert losses(tiny(FSDP), run) == straight[1]

    @pytest.mark.parametrize("name", PLANS)
    def test_another_plan_takes_the_checkpoint_up(
        self, name: str, tmp_path: Path, data: Path, straight: tuple[Path, list[float]]
    ) -> None:
        checkpoint, expected = straight
        run = options(tmp_path / "run", data=data, resume_from=checkpoint, checkpoint_every=None)
        assert losses(tiny(PLANS[name]), run) == pytest.approx(expected[3:], abs=1e-5)

    @pytest.mark.parametrize("name", ["tp x fsdp", "uneven shards", "pp"])
    def test_and_back(self, name: str, tmp_path: Path, data: Path, straight: tuple[Path, list[float]]) -> None:
        losses(tiny(PLANS[name]), options(tmp_path / "there", data=data))
        checkpoint = tmp_path / "there" / "checkpoints" / "step-000003"
        run = options(tmp_path / "back", data=data, resume_from=checkpoint, checkpoint_every=None)
        assert losses(tiny(PLANS["one process"]), run) == pytest.approx(straight[1][3:], abs=1e-5)

    def test_a_large_checkpoint_lies_in_several_files_of_each_rank(
        self, tmp_path: Path, data: Path, straight: tuple[Path, list[float]]
    ) -> None:
        losses(tiny(FSDP), options(tmp_path / "there", data=data), before=small_files)
        written = tmp_path / "there" / "checkpoints" / "step-000003"
        sizes = [file.stat().st_size for file in written.glob("*.safetensors")]
        assert len(sizes) >= 10
        assert max(sizes) < 30_000
        run = options(tmp_path / "back", data=data, resume_from=written, checkpoint_every=None)
        assert losses(tiny(FSDP), run) == straight[1][3:]

    @pytest.mark.parametrize("family", ["llama", "gpt2"])
    def test_a_tied_embedding_is_one_tensor_under_every_plan(
        self, family: FamilyName, tmp_path: Path, data: Path
    ) -> None:
        """Pipeline stages hold two copies of it, other plans one."""
        whole, split = (tiny(PLANS[name], family=family, tied=True) for name in ("one process", "pp"))
        expected = losses(whole, options(tmp_path / "whole", data=data))
        assert losses(split, options(tmp_path / "split", data=data)) == pytest.approx(expected, abs=1e-5)
        for source, target, name in (("whole", split, "to-pp"), ("split", whole, "from-pp")):
            checkpoint = tmp_path / source / "checkpoints" / "step-000003"
            run = options(tmp_path / name, data=data, resume_from=checkpoint, checkpoint_every=None)
            assert losses(target, run) == pytest.approx(expected[3:], abs=1e-5)

    @pytest.mark.parametrize("family", ["phi3", "mixtral", "gpt_oss", "olmo2"])
    def test_a_divided_projection_is_taken_up_by_a_plan_that_divides_it_otherwise(
        self, family: str, tmp_path: Path, data: Path
    ) -> None:
        """Parts of fused projections, stacked experts, biases and norms that tp divides."""
        config = FAMILIES[family] | {"vocab_size": VOCABULARY, "initializer_range": 0.02}
        files = {name: plan_file(config, PLANS[name]) for name in ("tp", "pp")}
        for name, file in files.items():
            training = file.training.model_copy(update={"optimizer": "adamw"})
            files[name] = file.model_copy(update={"training": training})
        expected = losses(files["tp"], options(tmp_path / "tp", data=data))
        checkpoint = tmp_path / "tp" / "checkpoints" / "step-000003"
        run = options(tmp_path / "pp", data=data, resume_from=checkpoint, checkpoint_every=None)
        assert losses(files["pp"], run) == pytest.approx(expected[3:], abs=2e-5)

    def test_spread_experts_are_those_of_one_process(self, tmp_path: Path, data: Path) -> None:
        files = {
            "whole": _experts(plan((layers(),))),
            "spread": _experts(plan((layers(zero=3),), dp_shard=4, ep=2)),
            "shared": _experts(plan((layers(zero=2),), dp_shard=2, tp=2, ep=2, etp=2)),
            "folded": _experts(plan((layers(zero=1),), dp_shard=2, tp=2, ep=4)),
        }
        losses(files["folded"], options(tmp_path / "folded", data=data))
        expected = losses(files["whole"], options(tmp_path / "whole", data=data))
        assert losses(files["spread"], options(tmp_path / "spread", data=data)) == pytest.approx(expected, abs=1e-5)
        for source, target in (("whole", "spread"), ("spread", "whole"), ("spread", "folded"), ("folded", "shared")):
            checkpoint = tmp_path / source / "checkpoints" / "step-000003"
            run = options(tmp_path / f"{source}-{target}", data=data, resume_from=checkpoint, checkpoint_every=None)
            assert losses(files[target], run) == pytest.approx(expected[3:], abs=1e-5)

    def test_the_optimizer_state_is_what_makes_it_exact(
        self, copied: Path, tmp_path: Path, data: Path, straight: tuple[Path, list[float]]
    ) -> None:
        """A negative control: a checkpoint whose momenta are lost must show in the losses."""
        for file in copied.glob("*.safetensors"):
            tensors = load_file(file)
            blank = {name: torch.zeros_like(value) if "exp_avg" in name else value for name, value in tensors.items()}
            rewrite(file, blank)
        restate(copied)
        run = options(tmp_path / "run", data=data, resume_from=copied, checkpoint_every=None)
        assert losses(tiny(FSDP), run) != pytest.approx(straight[1][3:], abs=1e-5)


class TestFolder:
    def test_only_the_newest_stay_and_no_half_written_one_counts(self, tmp_path: Path, data: Path) -> None:
        run = options(tmp_path / "run", data=data, steps=5, checkpoint_every=1, keep_checkpoints=2)
        checkpoints = run.out / "checkpoints"
        (checkpoints / ".step-000001.partial").mkdir(parents=True)
        (checkpoints / "step-000099").mkdir()
        losses(tiny(PLANS["one process"]), run)
        assert newest_checkpoint(checkpoints) == checkpoints / "step-000005"
        assert not any(checkpoints.glob(".*"))
        assert sorted(path.name for path in checkpoints.iterdir()) == ["step-000004", "step-000005", "step-000099"]

    def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(self, tmp_path: Path, data: Path) -> None:
        run = options(tmp_path / "run", data=data, steps=2, checkpoint_every=1)
        with pytest.raises(
            RankFailedError, match=r"RunFailedError: .*step-000002: cannot be written \(rank 0: No space"
        ):
            losses(tiny(FSDP), run, before=fill_the_disk_at_the_second_checkpoint)
        assert newest_checkpoint(run.out / "checkpoints") == run.out / "checkpoints" / "step-000001"

    @pytest.mark.parametrize("what", ["shard-00002", MANIFEST])
    def test_what_does_not_reach_the_disk_is_no_checkpoint(self, what: str, tmp_path: Path, data: Path) -> None:
        """A file of tensors on any rank, or the manifest on the first."""
        run = options(tmp_path / "run", data=data, steps=3, checkpoint_every=1)
        with pytest.raises(RankFailedError, match=r"RunFailedError: .*step-000002: cannot be written \(.*No space"):
            losses(tiny(FSDP), run, before=functools.partial(lose_what_is_synced, what))
        assert newest_checkpoint(run.out / "checkpoints") == run.out / "checkpoints" / "step-000001"

    def test_a_folder_that_is_none_is_refused(self, tmp_path: Path) -> None:
        assert "is no complete checkpoint" in refused(tmp_path)
        assert "is no complete checkpoint" in refused(tmp_path / "absent")


class Boom:
    """Unpickling it writes a file: what a hostile checkpoint would do."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.witness,)


class TestHostileAndDamaged:
    def test_a_pickled_index_is_refused_and_never_run(self, copied: Path, tmp_path: Path, data: Path) -> None:
        witness = tmp_path / "witness"
        (copied / ".metadata").write_bytes(pickle.dumps(Boom(witness)))
        assert "holds .metadata, which is no part of the checkpoint and is not read" in refused(copied)
        with pytest.raises(RankFailedError, match=r"holds \.metadata"):
            losses(tiny(FSDP), options(tmp_path / "run", data=data, resume_from=copied))
        assert not witness.exists()

    def test_a_pickle_in_place_of_tensors_is_refused_and_never_run(
        self, copied: Path, tmp_path: Path, data: Path
    ) -> None:
        witness = tmp_path / "witness"
        file = next(copied.glob("*.safetensors"))
        file.write_bytes(pickle.dumps(Boom(witness)))
        restate(copied)
        with pytest.raises(RankFailedError, match="is damaged"):
            losses(tiny(FSDP), options(tmp_path / "run", data=data, resume_from=copied))
        assert not witness.exists()

    def test_a_truncated_file_is_refused(self, copied: Path) -> None:
        file = next(copied.glob("*.safetensors"))
        file.write_bytes(file.read_bytes()[:-10])
        assert f"{file.name} is damaged" in refused(copied)

    def test_a_missing_file_is_refused(self, copied: Path) -> None:
        file = next(copied.glob("*.safetensors"))
        file.unlink()
        assert f"{file.name} is damaged (absent" in refused(copied)

    def test_a_shard_left_out_with_its_entry_is_refused(self, copied: Path, tmp_path: Path, data: Path) -> None:
        """torch itself would leave the missing rows at their initial values."""
        sorted(copied.glob("*.safetensors"))[0].unlink()
        restate(copied)
        with pytest.raises(RankFailedError, match=r"SpecError: .*(holds \d+ of the \d+ elements|is of another model)"):
            losses(tiny(FSDP), options(tmp_path / "run", data=data, resume_from=copied))

    def test_every_flipped_bit_is_noticed(self, copied: Path) -> None:
        """At 200 places of all files, the manifest among them."""
        chance = random.Random(5)
        for _ in range(200):
            file = chance.choice(sorted(copied.iterdir()))
            whole = file.read_bytes()
            flipped = bytearray(whole)
            flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
            file.write_bytes(bytes(flipped))
            assert self.noticed(copied), file.name
            file.write_bytes(whole)
        assert not self.noticed(copied)

    def noticed(self, checkpoint: Path) -> bool:
        try:
            return damaged_file(checkpoint, read_manifest(checkpoint, tiny(FSDP))) is not None
        except SpecError:
            return True

    def test_the_checkpoint_before_a_damaged_one_is_taken(
        self, tmp_path: Path, data: Path, straight: tuple[Path, list[float]]
    ) -> None:
        run = options(tmp_path / "run", data=data, checkpoint_every=2)
        with pytest.raises(RankFailedError, match="Stopped"):
            losses(tiny(FSDP), run, stop_after_step=5)
        newest = run.out / "checkpoints" / "step-000004"
        file = next(newest.glob("*.safetensors"))
        content = bytearray(file.read_bytes())
        content[-5] ^= 4
        file.write_bytes(bytes(content))
        shutil.copytree(newest, newest.with_name("step-000004-backup"))  # a user's copy is none of ours
        assert [path.name for path in complete_checkpoints(newest.parent)] == ["step-000002", "step-000004"]
        told: list[str] = []
        assert losses(tiny(FSDP), run, told=told) == straight[1]
        assert f"passed over: {newest}: {file.name} is damaged" in told[0]
        assert not self.noticed(newest), "it was written again"

    def test_an_intact_one_that_is_named_is_taken_where_none_here_is_whole(
        self, tmp_path: Path, data: Path, straight: tuple[Path, list[float]]
    ) -> None:
        run = options(tmp_path / "run", data=data, checkpoint_every=4, resume_from=straight[0])
        with pytest.raises(RankFailedError, match="Stopped"):
            losses(tiny(FSDP), run, stop_after_step=5)
        (run.out / "checkpoints" / "step-000004" / MANIFEST).write_text("{")
        assert losses(tiny(FSDP), run) == straight[1][3:]

    def test_a_manifest_that_is_no_json_is_refused(self, copied: Path) -> None:
        (copied / MANIFEST).write_text('{"kind": "shardwright-check')
        assert "is not valid JSON" in refused(copied)

    def test_a_manifest_with_an_unknown_key_is_refused(self, copied: Path) -> None:
        content = json.loads((copied / MANIFEST).read_text())
        (copied / MANIFEST).write_text(json.dumps({**content, "stepp": 1}))
        assert "unknown key 'stepp'" in refused(copied)


class TestOtherModel:
    def test_another_configuration_is_refused_by_its_first_difference(self, copied: Path) -> None:
        message = refused(copied, tiny(plan((layers(3),)), layers=3))
        assert "is of another model" in message
        assert "num_hidden_layers 2, not 3" in message

    def test_keys_that_change_no_model_are_overlooked(self, copied: Path) -> None:
        other = tiny(FSDP, transformers_version="0.0", architectures=["X"])
        assert read_manifest(copied, other).step == 3

    def test_another_optimizer_is_refused(self, copied: Path) -> None:
        assert "written with optimizer adamw" in refused(copied, tiny(FSDP, optimizer="sgd"))

    def test_tensors_of_another_shape_are_refused(self, copied: Path, tmp_path: Path, data: Path) -> None:
        """The manifest may lie; the tensors are compared themselves."""
        wider = tiny(FSDP, intermediate_size=64)
        restate(copied, model_config_json=wider.model_config_json)
        with pytest.raises(RankFailedError, match=r"'model\.model\.layers\.0\.mlp\.down_proj\.weight' has shape"):
            losses(wider, options(tmp_path / "run", data=data, resume_from=copied))


def small_files() -> None:
    checkpoint.FILE_BYTES = 20_000


def fill_the_disk_at_the_second_checkpoint() -> None:
    calls = itertools.count(1)
    whole = HuggingFaceStorageWriter.write_data

    def write_data(self: HuggingFaceStorageWriter, plan: Any, planner: Any) -> Any:
        if next(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(self, plan, planner)

    HuggingFaceStorageWriter.write_data = write_data  # type: ignore[method-assign]  # in a rank's own process


def lose_what_is_synced(what: str) -> None:
    whole = manifest.sync

    def sync(paths: Iterable[Path]) -> None:
        for path in paths:
            if "step-000002" in str(path) and path.name.startswith(what):
                raise OSError(errno.ENOSPC, "No space left on device")
            whole([path])

    setattr(checkpoint, "sync", sync)  # noqa: B010 # in a rank's own process


def rewrite(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    save_file(tensors, file, metadata=metadata)


def restate(checkpoint: Path, **changes: object) -> None:
    """Make the manifest agree with the files there are, as whoever tampers with them would."""
    manifest = Manifest.parse(json.loads((checkpoint / MANIFEST).read_text()), source="manifest")
    files = {file.name: (file.stat().st_size, checksum(file)) for file in checkpoint.glob("*.safetensors")}
    (checkpoint / MANIFEST).write_text(manifest.model_copy(update=changes).written(files))
