"""The words of the Kastor API for what the core names."""

from kastor.api.google.model_names import tuned_model_name
from kastor.api.http.wire_names import WireNames

KASTOR_NAMES = WireNames(
    fields={
        "base_model": "baseModel",
        "model_id": "tunedModelId",
        "display_name": "displayName",
        "train_tower": "trainTower",
        "media_folder": "mediaFolder",
        "num_epochs": "hyperparameters.epochCount",
        "batch_size": "hyperparameters.batchSize",
        "learning_rate": "hyperparameters.learningRate",
        "learning_rate_multiplier": "hyperparameters.learningRateMultiplier",
    },
    tuned_model=tuned_model_name,
)
