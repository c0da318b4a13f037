"""Memory of a train step on TPUs that are not here: compiles it for them with `libtpu`, on a CPU machine.

Needs `pip install libtpu`. Minutes for each:
  JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python tests/tpu_memory.py llama3_1b zero3 v5e:4x4 128256 2048 64
  JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python tests/tpu_memory.py gpt2_xl zero3 v5e:2x4 50257 1024 8
  JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python tests/tpu_memory.py gpt2 pmean v5e:2x2 50257 1024 48 \
    --microbatch_size 12 --model '{"remat": "none", "scan_layers": false, "loss_chunk": 0, "attention": "plain"}'
A program that does not fit is refused by the compiler: RESOURCE_EXHAUSTED.
"""

import argparse
import json

from jax.experimental import topologies

from jaxdp.config import load_config, parse_config
from jaxdp.model import Transformer, model_config, parameter_shapes
from jaxdp.parallel.control_word import control_word_spec
from jaxdp.parallel.devices import Topology, divide_batch
from jaxdp.parallel.layout import device_axes
from jaxdp.parallel.placement import abstract_batch
from jaxdp.parallel.sharding import parameter_gather
from jaxdp.parallel.spmd import compile_spmd
from jaxdp.parallel.state_placement import StatePlacement
from jaxdp.parallel.strategies import make_strategy
from jaxdp.step import make_train_step
from jaxdp.tasks import CausalLM, TaskInputs
from jaxdp.tasks.make import batch_spec
from jaxdp.training.update import make_initial_state, make_update, training_loss


def compile_step(options):
    """Compiles the step of a model in bfloat16, scanned and rematerialised unless `--model` says otherwise."""
    devices = topologies.get_topology_desc(topology_name=options.target, platform="tpu").devices
    here = Topology(tuple(devices), num_processes=1, process_index=0)
    config = parse_config(load_config("quickstart", [f"--config.parallel.sync={options.sync}"]))
    task = CausalLM(TaskInputs(length=options.length))
    overrides = {"dtype": "bfloat16", "dropout_rate": 0.0, "remat": "full", "scan_layers": True} | options.model
    sizes = {"vocab_size": options.vocab_size, "max_length": options.length}
    model = model_config(options.preset, overrides, platform=here.platform, **sizes)
    shapes, shape = parameter_shapes(model), divide_batch(options.rows, options.microbatch_size, here.num_devices)
    strategy = make_strategy(config.parallel, here, shapes)
    update = make_update(config.optim, 1000, "tpu", strategy)
    placement = StatePlacement(strategy, here, shapes, make_initial_state(update, strategy))
    layout = placement.layout.params
    network = Transformer(model, parameter_gather(layout, model.dtype))
    return compile_spmd(
        make_train_step(training_loss(config.optim, task, network, layout), update, strategy, shape, 0),
        here,
        placement.abstract,
        abstract_batch(batch_spec(task, shape.device_batch_size), here),
        abstract_batch(control_word_spec(), here),
        donated=(0,),
        out_axes=(device_axes(placement.abstract), None),
    )


def main():
    """Prints the bytes of the compiled step on one device as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("preset", "sync", "target"):
        parser.add_argument(name)
    for name in ("vocab_size", "length", "rows"):
        parser.add_argument(name, type=int)
    parser.add_argument("--microbatch_size", type=int, default=1)
    parser.add_argument("--model", type=json.loads, default={}, help="keys of config.model as JSON")
    program = compile_step(parser.parse_args())
    memory = program.call.memory_analysis()
    names = ("argument", "output", "alias", "temp")
    sizes = {name: getattr(memory, f"{name}_size_in_bytes") for name in names}
    print(json.dumps(sizes | {"total": program.device_bytes, "compile_secs": program.compile_secs}))


if __name__ == "__main__":
    main()
