"""Which room may import which, and what no module may do."""

from __future__ import annotations

# A room (folder or file of a2s/) and the rooms that it may import.
ROOMS = {
    "errors": set(),
    "storage": {"errors"},
    "config": {"storage", "errors"},
    "parallel": {"storage", "errors"},
    "data": {"storage", "errors"},
    "models": {"data", "parallel", "storage", "errors"},
    "pipeline": {"config", "parallel", "storage", "errors"},
    "labels": {"models", "data", "parallel", "storage", "config", "errors"},
    "training": {"labels", "models", "data", "parallel", "storage", "config", "errors"},
    "evaluation": {"labels", "models", "data", "storage", "errors"},
    "paper": {
        *("evaluation", "labels", "pipeline", "models"),
        *("data", "parallel", "storage", "config", "errors"),
    },
    "commands": {
        *("paper", "evaluation", "training", "labels", "pipeline", "models"),
        *("data", "parallel", "storage", "config", "errors"),
    },
    "api": {
        *("evaluation", "labels", "pipeline", "models"),
        *("data", "storage", "config", "errors"),
    },
    "__main__": {"config", "storage", "errors"},
}
# Mathematics: these import no rank, file, setting or engine, only each other.
PURE = {
    "config.schedules",
    "data.arrays",
    "data.epoch_plan",
    "data.keys",
    "data.mask_names",
    "data.transforms",
    "evaluation.dataset_scores",
    "evaluation.levels",
    "evaluation.metrics",
    "evaluation.nearest",
    "evaluation.pictures.cutout",
    "evaluation.pictures.foreground",
    "evaluation.pictures.overlay",
    "evaluation.review.snap",
    "evaluation.table",
    "evaluation.verdict",
    "evaluation.weighted_f",
    "labels.correction",
    "labels.crf",
    "labels.edges",
    "labels.export.coco",
    "labels.export.cvat",
    "labels.export.item",
    "labels.export.names",
    "labels.export.yolo",
    "labels.making.forecast",
    "labels.quality",
    "labels.refine",
    "labels.shapes",
    "labels.store.fixed_point",
    "models.adaptive",
    "models.boundary",
    "models.centre",
    "models.rbd",
    "models.superpixels",
    "models.vote",
    "paper.hma.rule",
    "paper.numbers",
    "paper.tables.format",
    "paper.tables.hours",
    "parallel.bottleneck",
    "storage.parsing",
    "storage.status",
    "training.learning_rate",
    "training.losses",
    "training.stage2_loss",
}
# In a room that may import settings, only these do; the others take plain values.
SEE_SETTINGS = {"labels.recipe", "labels.making.all_shards"}
ROOMS_WITH_SETTINGS = {"commands", "paper", "pipeline", "training", "api", "__main__", "config"}
# Each engine has one importer.
ONLY = {
    "ray": "a2s.parallel.pool",
    "accelerate": "a2s.parallel.ranks",
    "torch.distributed": "a2s.parallel.ranks",
    "pydensecrf": "a2s.labels.crf.pydensecrf_backend",
    "timm": "a2s.models.timm_encoder",
    "triton": "a2s.labels.crf.torch_backend.filter_triton",
    "numba": "a2s.labels.crf.numba_backend.jit",
    "llvmlite": "a2s.labels.crf.numba_backend.jit",
    "onnx": "a2s.models.export",
    "onnxruntime": "a2s.models.export",
    "onnxscript": "a2s.models.export",
    "huggingface_hub": "a2s.api.detector",
    "uvicorn": "a2s.evaluation.listening",
}
# The command line and the Python API call one command, the pipeline many; nobody else imports one
# by its name.
CALLERS_OF_COMMANDS = {"a2s.__main__", "a2s.pipeline", "a2s.api.command"}
# What the package itself names, to load it when it is asked for.
FRONT = "api"
PICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
# These read what the kernel shows as files. Everyone else reads with a2s.storage.files, which waits
# for no named pipe.
READ_KERNEL_FILES = {
    *("a2s.storage.machine", "a2s.data.isolated_decoder"),
    *("a2s.parallel.ray_session", "a2s.parallel.ray_reaper"),
}
READERS = {"a2s.storage.files", *READ_KERNEL_FILES}
FORBIDDEN_CALLS = {
    "torch.save": "writes a pickle; use safetensors or JSON",
    "os.system": "goes through a shell",
    "os.popen": "goes through a shell",
    "eval": "runs text as code",
    "exec": "runs text as code",
    "yaml.load": "may build objects; use yaml.safe_load",
    "yaml.unsafe_load": "builds objects; use yaml.safe_load",
}
