"""Names in files that others read: they do not change."""

RESULT_NAMES = (
    *(
        "status",
        "recipe_fingerprint",
        "weights_sha256",
        "global_batch",
        "num_workers",
        "images_per_worker",
        "steps",
        "epochs",
    ),
    *("train_images_seen", "val_images", "val_correct", "val_accuracy", "val_loss", "median_last5_val_accuracy"),
    *("best_val_accuracy", "seed", "mode", "images_per_second", "wall_seconds", "interruptions", "damaged_images"),
)
"""Of result.json, in their order; a `reason` may follow."""
