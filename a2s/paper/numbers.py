"""The paper's numbers, as data (arXiv 2112.03650). Pure.

A score is (ave-F, MAE); ave-F is the adaptive-threshold F.
"""

from __future__ import annotations

from collections.abc import Mapping

Score = tuple[float, float]

NUM_IMAGES = {
    "ECSSD": 1000,
    "MSRA-B": 2000,
    "DUT-O": 5168,
    "PASCAL-S": 850,
    "DUTS-TE": 5019,
    "HKU-IS": 4447,
    "MSRA-B train": 3000,
}
"""Number of images in each of the paper's test sets; the last entry is its training set."""
_ALIASES = {
    "dutomron": "DUT-O",
    "duts": "DUTS-TE",
    "msra": "MSRA-B",
    "msrabtest": "MSRA-B",
    "train": "MSRA-B train",
}
_BY_LETTERS = {"".join(filter(str.isalnum, name)).lower(): name for name in NUM_IMAGES} | _ALIASES

SETTINGS: dict[str, dict[str, object]] = {
    "stage1": {"epochs": 20, "image_size": 320, "batch_size": 8},
    "stage2": {"epochs": 25, "image_size": 320, "batch_size": 8},
}
"""Sec. IV-A."""
ENCODER = ("resnet50", "resnet50/moco_v2_800ep")
NUM_TRAIN = 3000


def set_name(given: str) -> str | None:
    """Map a user's name for a set (`ecssd`, `dut_omron`) to the paper's; None: not in the paper.

    `train` is the training set.
    """
    return _BY_LETTERS.get("".join(filter(str.isalnum, given)).lower())


def _scores(text: str, names: tuple[str, ...]) -> dict[str, Score]:
    cells = zip(names, text.split(), strict=True)
    pairs = {name: cell.split("/") for name, cell in cells if cell != "-"}
    return {name: (float(f), float(mae)) for name, (f, mae) in pairs.items()}


_SIX = ("ECSSD", "MSRA-B", "DUT-O", "PASCAL-S", "DUTS-TE", "HKU-IS")
_TWO = ("ECSSD", "MSRA-B")
_TRAIN = ("MSRA-B train",)

TABLE_2: dict[str, dict[str, Score]] = {
    name: _scores(text, _SIX)
    for name, text in {
        "PiCANet": ".885/.046 .874/.055 .710/.068 .804/.076 .759/.041 .870/.044",
        "CPD": ".917/.037 .899/.038 .747/.056 .831/.072 .805/.043 .891/.034",
        "BASNet": ".879/.037 .896/.036 .756/.056 .781/.077 .791/.048 .898/.033",
        "ITSD": ".906/.036 .902/.038 .758/.058 .817/.066 .794/.040 .899/.030",
        "MINet": ".924/.033 .903/.038 .756/.055 .842/.064 .828/.037 .908/.028",
        "DSR": ".639/.174 .723/.121 .558/.137 .579/.260 .512/.148 .675/.143",
        "MC": ".611/.204 .717/.144 .529/.186 .574/.272 - -",
        "RBD": ".686/.189 .751/.117 .510/.201 .609/.223 .508/.194 .657/.178",
        "HS": ".623/.228 .713/.161 .521/.227 .595/.286 .460/.258 .623/.223",
        "Stage 1": ".840/.072 .857/.053 .634/.096 .750/.114 .693/.080 .822/.056",
        "Stage 1 ‡": ".851/.081 .881/.050 .690/.080 .753/.124 .733/.073 .859/.054",
        "SBF ‡": ".787/.085 .867/.058 .583/.135 .680/.141 .627/.105 .805/.074",
        "MNL ‡": ".878/.070 .877/.056 .716/.086 .842/.139 - -",
        "USPS ‡": ".882/.064 .901/.042 .696/.077 - - -",
        "Stage 2": ".880/.060 .886/.043 .683/.082 .775/.106 .714/.076 .856/.048",
        "Stage 2 ‡": ".888/.064 .902/.040 .719/.069 .790/.106 .750/.065 .887/.042",
    }.items()
}
"""‡: the encoder was trained with ImageNet labels; the other A2S rows use MoCo v2."""
SUPERVISED = ("PiCANet", "CPD", "BASNet", "ITSD", "MINet")

TABLE_4 = {
    name: _scores(text, _TRAIN)
    for name, text in {
        "A0": ".028/.350",
        "A1": ".814/.092",
        "A2": ".837/.081",
        "A3": ".866/.050",
    }.items()
}
TABLE_5 = {
    name: _scores(text, _TRAIN)
    for name, text in {
        "0": ".845/.078",
        "0.1": ".866/.050",
        "0.2": ".862/.052",
        "0.3": ".859/.055",
    }.items()
}
TABLE_7 = {
    name: _scores(text, _TWO)
    for name, text in {
        "minet": ".859/.067 .867/.050",
        "conv": ".860/.068 .865/.051",
        "ram": ".865/.066 .872/.047",
        "minet-olr": ".863/.065 .872/.048",
        "conv-olr": ".872/.063 .876/.047",
        "ram-olr": ".880/.060 .886/.043",
    }.items()
}
TABLE_6 = {"0.4": TABLE_7["ram-olr"], "1": TABLE_7["ram"]}
"""The table's body is missing in the text; these two rows are the same runs as in Table VII."""
TABLE_8 = {
    name: _scores(text, _TWO)
    for name, text in {"HMA": ".843/.078 .876/.049", "OLR": ".880/.060 .886/.043"}.items()
}
SCORES: dict[str, dict[str, dict[str, Score]]] = {
    "tab2": TABLE_2,
    "tab4": TABLE_4,
    "tab5": TABLE_5,
    "tab6": TABLE_6,
    "tab7": TABLE_7,
    "tab8": TABLE_8,
}
"""By table, row and set."""
EXTRAS: dict[str, dict[str, dict[str, float]]] = {
    "tab7": {
        f"{name}{suffix}": {"parameters_m": count}
        for name, count in {"minet": 164.43, "conv": 28.25, "ram": 28.40}.items()
        for suffix in ("", "-olr")
    },
    "tab8": {"HMA": {"hours": 5.33}, "OLR": {"hours": 0.36}},
}
"""By table and row: parameters in millions, hours of training."""

TABLE_1 = {"Otsu": "0.1408", "mean": "0.1405", "median": "not legible"}
"""Inter-class variance by threshold."""

TABLE_3: tuple[dict[str, object], ...] = (
    {"run": "paper: SBF", "encoder": "not said", "supervision": "image labels; cues of older "
     "methods", "hours": 3.0},
    {"run": "paper: MNL", "encoder": "ResNet-101", "image_size": "over 320",
     "supervision": "image labels; cues of older methods", "hours": 4.0},
    {"run": "paper: USPS", "encoder": "ResNet-101", "image_size": "over 320",
     "supervision": "image labels; cues of older methods", "hours": 30.0},
    {"run": "paper: A2S stage 1", "encoder": "ResNet-50", "image_size": "320",
     "supervision": "none (MoCo v2)", "hours": 0.67},
    {"run": "paper: A2S stage 2", "encoder": "ResNet-50", "image_size": "320",
     "parameters_m": 28.40, "supervision": "none (MoCo v2)", "hours": 0.33},
)  # fmt: skip
"""From Sec. IV-B, since the body of Table III is missing in the text; one GTX 1080 Ti."""

NOTES: Mapping[str, tuple[str, ...]] = {
    "tab1": (
        "V is the inter-class variance of Eqn 2. The paper does not say how maps are scaled to "
        "0..1: `min-max` stretches each map, `sigmoid` is that of theta.",
        "The median's value is garbled in the paper's text. Times are of the threshold alone.",
    ),
    "tab2": (
        "‡: encoder trained with ImageNet labels. The paper does not say whether its Stage 1 rows "
        "are activation maps or refined labels; ours are both.",
        "Our classical rows are the folders given with --maps, and RBD the built-in baseline where "
        "no folder is given.",
    ),
    "tab3": (
        "The paper's rows are what its Sec. IV-B says: the hours of SBF, MNL and USPS leave out "
        "the extraction of their cues; A2S stage 2 includes it. One GTX 1080 Ti.",
        "The paper's 28.40 M count 2.05 M of an unused ImageNet classifier; ours count none.",
        "Hours here are those of training steps (or of labelling), from what each run has logged.",
    ),
    "tab4": ("The paper scores the pseudo labels of the images it learned from (MSRA-B train).",),
    "tab5": ("The paper scores the pseudo labels of the images it learned from (MSRA-B train).",),
    "tab6": (
        "The body of the paper's table is not in its text. Its rows 0.4 and 1 are the same runs as "
        "those of Table VII with and without OLR.",
    ),
    "tab7": (
        "Parameters in millions. The paper's counts of ours include 2.05 M of an unused ImageNet "
        "classifier.",
    ),
    "tab8": (
        "Hours are those of training and label updates, without scoring; the paper's: one GPU.",
    ),
    "fig9": (
        "The paper's values cannot be read from its text. It says that DB1 and DB2 do not "
        "converge, that DB3 is unstable, and that DB5 (ADB) is best.",
        "MAE is that of the activation maps after each epoch.",
    ),
}
