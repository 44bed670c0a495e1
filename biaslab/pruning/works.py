"""Works that more than one method draws on; what one method alone is from stands in its own file."""

from __future__ import annotations

from biaslab.pruning.citation import Citation

__all__ = ["D2PRUNER", "FEATHER", "IDPRUNER", "PORE"]

D2PRUNER = Citation(
    key="d2pruner2026",
    title="D2Pruner: Debiased Importance and Structural Diversity for MLLM Token Pruning",
    year=2026,
    arxiv="2512.19443",
    authors=(
        "Evelyn Zhang", "Fufu Yu", "Aoqi Wu", "Zichen Wen", "Ke Yan", "Shouhong Ding", "Biqing Qi", "Linfeng Zhang",
    ),
    venue="AAAI 2026",
)  # fmt: skip

FEATHER = Citation(
    key="feather2025",
    title="Feather the Throttle: Revisiting Visual Token Pruning for Vision-Language Model Acceleration",
    year=2025,
    arxiv="2412.13180",
    authors=("Mark Endo", "Xiaohan Wang", "Serena Yeung-Levy"),
    venue="ICCV 2025",
)

IDPRUNER = Citation(
    key="idpruner2026",
    title="IDPruner: Harmonizing Importance and Diversity in Visual Token Pruning for MLLMs",
    year=2026,
    arxiv="2602.13315",
    authors=(
        "Yifan Tan", "Yifu Sun", "Shirui Huang", "Hong Liu", "Guanghua Yu", "Jianchen Zhu", "Yangdong Deng",
    ),
)  # fmt: skip

PORE = Citation(
    key="pore2025",
    title="PoRe: Position-Reweighted Visual Token Pruning for Vision Language Models",
    year=2025,
    arxiv="2508.17807",
    authors=("Kai Zhao", "Wubang Yuan", "Alex Lingyu Hung", "Dan Zeng"),
)
