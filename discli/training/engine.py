"""Hugging Face Accelerate, narrowed to what the training loop needs: one process or many, one API."""

import importlib.util
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from discli.recipe.train import TrainSpec
from discli.runtime.devices import Precision, settle_precision
from discli.runtime.errors import DiscliError
from discli.runtime.processes import processes_here, rank_and_world
from discli.runtime.rendezvous import meet
from discli.training.graphs import check_graphs

# The other processes wait while the main one writes checkpoints, draws previews and scores samples.
_PATIENCE = timedelta(hours=4)


class Engine:
    """Starts under ``python``, ``torchrun`` and ``accelerate launch``, and reads what ``srun`` sets."""

    def __init__(
        self,
        spec: TrainSpec,
        tracker_folder: Path,
        device: torch.device | None = None,
        asked_to_stop: Callable[[], bool] = lambda: False,
        began_with: str | None = None,
    ) -> None:
        """``device``: a GPU where there is one, unless given. Raises DiscliError where training can't run on it.

        ``began_with`` is the precision of the run's first session, which "auto" then means in all others.
        Waits for the other processes, if there are any, until ``asked_to_stop``.
        """
        from accelerate import Accelerator, PartialState
        from accelerate.state import AcceleratorState
        from accelerate.utils import InitProcessGroupKwargs

        if spec.tracker != "none" and importlib.util.find_spec(spec.tracker) is None:
            # Accelerate would go on without it, and a month later there would be nothing to see.
            raise DiscliError(
                f'train.tracker = "{spec.tracker}", which is not installed.',
                f'pip install {spec.tracker}, or train.tracker = "none": metrics.jsonl is written anyway.',
            )
        on_cuda = torch.cuda.is_available()
        if device is not None:
            on_cuda = device.type == "cuda"
            self._check_device(device)
        meet("nccl" if on_cuda else "gloo", _PATIENCE, asked_to_stop)
        if device is not None and device.index is not None and on_cuda:
            torch.cuda.set_device(device)
        if PartialState._shared_state.get("num_processes", 1) != rank_and_world()[1]:
            AcceleratorState._reset_state(reset_partial_state=True)  # which remembers this process's last training
        self._tracker, self._tracker_folder = spec.tracker, tracker_folder
        self._accelerator = Accelerator(
            cpu=not on_cuda,
            # The recipe decides these, not what accelerate launch was told.
            mixed_precision="no",
            dynamo_backend="no",
            log_with=None if spec.tracker == "none" else spec.tracker,
            project_dir=str(tracker_folder),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
        )
        kind = self._accelerator.distributed_type.value
        if kind not in ("NO", "MULTI_CPU", "MULTI_GPU"):
            raise DiscliError(
                f"accelerate was configured for {kind}, which discli does not use.",
                'Launch with --multi_gpu, and set train.parallel = "fsdp2" in the recipe to shard.',
            )
        # With its number, for another thread's current GPU is the first.
        self.device = device if device and on_cuda and device.index is not None else self._accelerator.device
        if device is not None and device.type != self.device.type:
            raise DiscliError(
                f"--device {device}: this process has trained on {self.device.type} before.", "Start another process."
            )
        if spec.cuda_graphs:
            check_graphs(self.device, self.world_size)
        self.precision_choice = self._settle(spec, began_with)
        if on_cuda:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = spec.tf32
            # A resumed run must meet the same kernels.
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        self.sharded = spec.parallel == "fsdp2" and self.world_size > 1

    def _settle(self, spec: TrainSpec, began_with: str | None) -> Precision:
        """The same on all ranks, whatever their trials said."""
        if spec.precision == "auto" and began_with in ("bf16", "fp32"):
            return Precision("bf16" if began_with == "bf16" else "fp32", "as the run began")
        choice = settle_precision(spec.precision, self.device)
        (some_in_fp32,) = self.any(choice.name == "fp32")
        if some_in_fp32 and choice.name == "bf16":
            return Precision("fp32", "as another process chose")
        return choice

    @property
    def precision(self) -> Literal["bf16", "fp32"]:
        return self.precision_choice.name

    @staticmethod
    def _check_device(device: torch.device) -> None:
        if device.type not in ("cpu", "cuda"):
            raise DiscliError(f"--device {device}: training runs on cuda and cpu alone.", "Leave --device out.")
        if device.index is not None and rank_and_world()[1] > 1:
            raise DiscliError(
                f"--device {device}: each of several processes takes a GPU of its own.",
                "Give --device cuda or cpu, and choose the GPUs with CUDA_VISIBLE_DEVICES.",
            )

    @property
    def rank(self) -> int:
        return int(self._accelerator.process_index)

    @property
    def world_size(self) -> int:
        return int(self._accelerator.num_processes)

    @property
    def devices(self) -> int:
        """GPUs, or machines: processes on a CPU share it."""
        return self.world_size if self.device.type != "cpu" else max(1, self.world_size // processes_here())

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wrap(self, network: nn.Module, units: Iterable[nn.Module]) -> nn.Module:
        """What to call instead of ``network``. Optimizers are to be built from its parameters afterwards.

        ``units`` are the parts that FSDP2 shards one by one. It is applied by hand, because
        Accelerate offers it on accelerators only, and then it could not be tested on a CPU.
        """
        network.to(self.device)
        if self.sharded:
            from torch.distributed.fsdp import fully_shard

            for unit in units:
                fully_shard(unit)
            fully_shard(network)
            return network
        # Of a convolution with one channel: both strides name the same places.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        wrapped: nn.Module = self._accelerator.prepare(network)
        return wrapped

    @property
    def needs_rehearsal(self) -> bool:
        """Whether the first backward pass of a session adds up gradients in another order than all later ones.

        DistributedDataParallel lays out its buckets anew after it, by the order in which gradients came, and
        from three processes on a sum's last bits depend on where in a bucket it lies.
        """
        return self.world_size > 1 and not self.sharded

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    @contextmanager
    def accumulate(self, model: nn.Module, last: bool) -> Iterator[None]:
        """Around each micro-batch of a step: only the last one sends gradients to the other processes."""
        if self.sharded:
            cast(Any, model).set_requires_gradient_sync(last)
            yield
        else:
            with nullcontext() if last else self._accelerator.no_sync(model):
                yield

    def clip(self, network: nn.Module, max_norm: float) -> Tensor:
        """Scales gradients down to ``max_norm`` and returns their norm before, (), the same on all ranks."""
        return full(nn.utils.clip_grad_norm_(network.parameters(), max_norm))

    def agree(self, grad_norm: Tensor, is_finite: Tensor, asked: bool) -> tuple[float, bool, bool]:
        """The norm, whether it or anything on any rank is not finite, and whether any rank was asked to stop.

        The one place in a step that waits for the device.
        """
        # Filled and not copied there, which would wait too.
        stop = torch.full((), float(asked), dtype=torch.float64, device=self.device)
        flags = self.sum(torch.stack([(~(torch.isfinite(grad_norm) & is_finite)).double(), stop]))
        norm, broken, stops = torch.cat([grad_norm.double().view(1), flags]).tolist()
        return norm, broken > 0, stops > 0

    def any(self, *flags: bool) -> list[bool]:
        """Each flag is true on every rank when it is on one."""
        if self.world_size == 1:
            return list(flags)
        raised = self.sum(torch.tensor([float(flag) for flag in flags], device=self.device))
        return [bool(count > 0) for count in raised.tolist()]

    def sum(self, tensor: Tensor) -> Tensor:
        """Over all ranks."""
        if self.world_size == 1:
            return tensor
        total: Tensor = self._accelerator.reduce(tensor, reduction="sum")
        return total

    def exchange(self, parts: Sequence[Tensor]) -> None:
        """``parts[rank]``, a tensor of each rank's, becomes on all of them what that rank has put there."""
        works = [dist.broadcast(part, rank, async_op=True) for rank, part in enumerate(parts) if part.numel()]
        for work in works:
            assert work is not None
            work.wait()

    def barrier(self) -> None:
        self._accelerator.wait_for_everyone()

    def start_tracker(self, run_name: str, run_id: str, step: int, config: dict[str, Any]) -> None:
        """On the main process; a resumed run continues in the same place, from ``step``."""
        self._accelerator.init_trackers(
            # TensorBoard takes it as its folder's name, Weights & Biases as a project's.
            "tracker" if self._tracker == "tensorboard" else "discli",
            config=config if step == 0 else None,
            init_kwargs={
                "tensorboard": {"purge_step": step + 1},
                "wandb": {"name": run_name, "id": run_id, "resume": "allow", "dir": str(self._tracker_folder)},
            },
        )

    def track(self, values: dict[str, float | None], step: int) -> None:
        self._accelerator.log({k: v for k, v in values.items() if v is not None}, step=step)

    def close(self) -> None:
        self._accelerator.end_training()


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor that FSDP2 keeps in shards; collective when it does."""
    whole: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    return whole() if whole is not None else tensor


def whole(tensors: Mapping[str, Tensor], wanted: bool) -> dict[str, Tensor]:
    """`full` of each, on the CPU; nothing where it is not ``wanted``, but all ranks must call."""
    gathered = {}
    for name, tensor in tensors.items():
        value = full(tensor.detach())  # one after another: together they may not fit on a device
        if wanted:
            gathered[name] = value.cpu()
    return gathered


@torch.no_grad()
def fill(targets: dict[str, Any], source: dict[str, Tensor]) -> None:
    """Copy whole tensors into those of the same names, sharded or not."""
    for name, target in targets.items():
        target.detach().copy_(_as_sharded(source[name], target))


def like(parameter: Tensor, source: Tensor) -> Tensor:
    """A new tensor with the place, and the sharding, of ``parameter`` and the values of ``source``."""
    return torch.empty_like(parameter, requires_grad=False).copy_(_as_sharded(source, parameter))


def _as_sharded(source: Tensor, target: Tensor) -> Tensor:
    if source.shape != target.shape:
        raise ValueError(f"{tuple(source.shape)} where {tuple(target.shape)} belongs")
    if not hasattr(target, "device_mesh"):
        return source
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(target, DTensor)
    return distribute_tensor(source.to(target.device), target.device_mesh, target.placements)
