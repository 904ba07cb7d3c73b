"""Evaluation: what a trained method knows, measured on frozen embeddings.

`embed` runs the encoders once; everything else is arithmetic on what it returns. `report` puts
the measures of a finished run together, `monitor` the cheap ones of a run under way.
`probe_report` and `fine_tune_report` measure with few labels.

No measure here looks at a label while it embeds, and none updates a weight of the method it is
given: fine-tuning trains a copy. Whether the *method* used labels is another matter: class captions
are labels in words.
"""

from cmssf_lib.evaluate.ceilings import (
    caption_ceiling,
    joint_ceiling,
    output_fusion_ceiling,
    single_ceiling,
)
from cmssf_lib.evaluate.classify import (
    accuracy,
    class_captions,
    confusion,
    embed_prompts,
    knn,
    nearest_pixels,
    zero_shot,
    zero_shot_prompts,
    zero_shot_prompts_from_captions,
)
from cmssf_lib.evaluate.draws import few_labels, label_draws
from cmssf_lib.evaluate.embeddings import (
    Embeddings,
    embed,
    embed_features,
    embed_images,
    embed_mirrored,
    embed_texts,
)
from cmssf_lib.evaluate.finetune import FineTuned, fine_tune, fine_tune_report
from cmssf_lib.evaluate.fusion import fusion_monitor, fusion_outputs, fusion_report
from cmssf_lib.evaluate.probe import (
    Probe,
    linear_probe,
    pixel_features,
    probe_report,
)
from cmssf_lib.evaluate.retrieve import exact_caption_retrieval, pair_similarity, retrieval
from cmssf_lib.evaluate.summary import monitor, report

__all__ = [
    "Embeddings",
    "FineTuned",
    "Probe",
    "accuracy",
    "caption_ceiling",
    "class_captions",
    "confusion",
    "embed",
    "embed_features",
    "embed_images",
    "embed_mirrored",
    "embed_prompts",
    "embed_texts",
    "exact_caption_retrieval",
    "few_labels",
    "fine_tune",
    "fine_tune_report",
    "fusion_monitor",
    "fusion_outputs",
    "fusion_report",
    "joint_ceiling",
    "knn",
    "label_draws",
    "linear_probe",
    "monitor",
    "nearest_pixels",
    "output_fusion_ceiling",
    "pair_similarity",
    "pixel_features",
    "probe_report",
    "report",
    "retrieval",
    "single_ceiling",
    "zero_shot",
    "zero_shot_prompts",
    "zero_shot_prompts_from_captions",
]
