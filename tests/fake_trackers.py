"""Stand-ins of the tracking services' packages, with the parameters of the real functions that jaxdp uses."""

from pathlib import Path
from types import SimpleNamespace


class FakeWandb:
    """The module `wandb`; runs live in `server`, by id."""

    class Error(Exception):
        pass

    def __init__(self, unreachable=False, has_key=True):
        self.unreachable, self.has_key = unreachable, has_key
        self.inits, self.lines, self.finished = [], [], 0
        self.Settings = self.settings

    @staticmethod
    def settings(
        *, silent=False, console="auto", x_disable_meta=False, disable_git=False, disable_code=False, init_timeout=90.0,
        finish_timeout=0.0, x_transaction_log_flush_interval=15.0,
    ):  # fmt: skip
        return SimpleNamespace(**{name: value for name, value in locals().items()})

    def setup(self, settings=None):
        pass

    def teardown(self):
        self.unreachable = False  # as the real one ends the attempt that holds the run id

    def login(self, key=None, verify=True, prompt=True):
        assert not prompt, "a prompt would wait for an answer"
        return self.has_key

    def init(
        self, entity=None, project=None, dir=None, id=None, name=None, tags=None, config=None, allow_val_change=None,
        group=None, mode=None, resume=None, settings=None,
    ):  # fmt: skip
        self.inits.append({name: value for name, value in locals().items() if name != "self"})
        if self.unreachable:
            raise self.Error("Post https://ann:secretpw@host/graphql: connection refused")
        return FakeWandbRun(self, mode == "offline", dir)

    Table = staticmethod(lambda columns=None, data=None: ("table", columns, data))
    Image = staticmethod(lambda data_or_path: ("image", Path(data_or_path).read_bytes()))


class FakeWandbRun:
    url, step, resumed = "https://wandb/run", 0, False

    def __init__(self, module, offline, directory):
        self._module, self.offline, self.dir = module, offline, f"{directory}/wandb/offline-run/files"

    def log(self, data, step=None, commit=None):
        self._module.lines.append((step, data))

    def finish(self, exit_code=None):
        self._module.finished += 1


class FakeTrackio:
    """The module `trackio`."""

    def __init__(self):
        self.inits, self.lines, self.finished = [], [], 0

    def init(
        self, project, name=None, group=None, config=None, resume="never", embed=True, auto_log_gpu=None,
        auto_log_cpu=None,
    ):  # fmt: skip
        print("* Created new run")  # as the real one does
        self.inits.append({name: value for name, value in locals().items() if name != "self"})
        return self

    def log(self, metrics, step=None):
        self.lines.append((step, metrics))

    def finish(self):
        print("* Run finished")
        self.finished += 1

    Markdown = staticmethod(lambda text="": ("markdown", text))
    Image = staticmethod(lambda value: ("image", value.size))


class FakeMlflow:
    """The modules `mlflow` and `mlflow.entities`, with the runs of one server."""

    def __init__(self):
        self.runs, self.experiments, self.uris, self.fail = {}, {}, [], 0
        self.entities = SimpleNamespace(Metric=FakeMetric, Param=FakeParam, RunTag=FakeTag)

    def MlflowClient(self, tracking_uri=None):
        self.uris.append(tracking_uri)
        return FakeMlflowClient(self)


class FakeMlflowClient:
    def __init__(self, server):
        self._server = server

    def get_experiment_by_name(self, name):
        found = self._server.experiments.get(name)
        return found and SimpleNamespace(experiment_id=found[0])

    def create_experiment(self, name, artifact_location=None):
        self._server.experiments[name] = (str(len(self._server.experiments)), artifact_location)
        return self._server.experiments[name][0]

    def search_runs(self, experiment_ids, filter_string="", max_results=1000):
        _, _, wanted = filter_string.partition(" = ")
        found = [run for run in self._server.runs.values() if f"'{run.data.tags['jaxdp.run_id']}'" == wanted]
        return [run for run in found if run.experiment in experiment_ids][:max_results]

    def create_run(self, experiment_id, tags=None, run_name=None):
        run_id = f"run{len(self._server.runs)}"
        run = SimpleNamespace(
            info=SimpleNamespace(run_id=run_id), data=SimpleNamespace(tags=tags, params={}), experiment=experiment_id,
            name=run_name, metrics=[], batches=[], status="RUNNING", files={},
        )  # fmt: skip
        self._server.runs[run_id] = run
        return run

    def update_run(self, run_id, status=None, name=None):
        self._server.runs[run_id].status = status

    def set_terminated(self, run_id, status=None):
        self._server.runs[run_id].status = status

    def log_batch(self, run_id, metrics=(), params=(), tags=()):
        if self._server.fail:
            self._server.fail -= 1
            raise ConnectionError("no route to https://ann:secretpw@host")
        run = self._server.runs[run_id]
        run.batches.append(len(metrics))
        run.metrics += [(each.key, each.step, each.value) for each in metrics]
        assert not run.data.params.keys() & {each.key for each in params}, "MLflow refuses to change a parameter"
        run.data.params |= {each.key: each.value for each in params}
        run.data.tags |= {each.key: each.value for each in tags}

    def log_text(self, run_id, text, artifact_file):
        self._server.runs[run_id].files[artifact_file] = text

    def log_image(self, run_id, image, artifact_file=None):
        self._server.runs[run_id].files[artifact_file] = image.size


class FakeMetric:
    def __init__(self, key, value, timestamp, step):
        self.key, self.value, self.timestamp, self.step = key, value, timestamp, step


class FakeParam:
    def __init__(self, key, value):
        self.key, self.value = key, value


class FakeTag:
    def __init__(self, key, value):
        self.key, self.value = key, value
