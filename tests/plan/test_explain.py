"""A recipe in sentences: the numbers in them are those of the plan, worked out by hand."""

import pytest

from widestep.plan import recipes
from widestep.plan.explain import RESTS_ON, explain, formula
from widestep.plan.recipe import Recipe

NUM_IMAGENET = 1_281_167
TOPICS = [
    *("data", "workers", "length", "rate", "warmup", "decay", "optimizer", "regularisation", "initial", "batchnorm"),
    *("evaluation", "arithmetic"),
]


def explained(address, changes=None):
    recipe = recipes.changed(recipes.load(address).recipe, changes or {})
    return explain(recipe, recipe.train_images or NUM_IMAGENET)


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_can_be_explained(name):
    found = explained(name)
    assert list(found) == TOPICS
    assert all(text.endswith(".") and "  " not in text and "None " not in text for text in found.values())


def test_the_poster():
    """41 steps an epoch; the first of 205 steps of warmup is at 0.0125 x (239/205 + 1)."""
    assert explained("poster") == {
        "data": "resnet50 trains on 1,281,167 images of 224 x 224 pixels (imagenet), changed at random by "
        "random-resized-crop.",
        "workers": "40 node(s) x 6 = 240 worker(s) take 128 images each: 30,720 a step.",
        "length": "90 epochs = 3,690 steps, 41 an epoch; tail drop: 21,647 images dropped an epoch.",
        "rate": "The peak rate is 3: 0.0125 @ 1 worker x 240 workers -> 3.",
        "warmup": "205 step(s) = 5 epochs, linear: step 0 has the rate 0.0270732, step 204 has 3, step 205 has 3.",
        "decay": "By steps: x 0.1 at epoch 30 = step 1,230 to 0.3; x 0.1 at epoch 60 = step 2,460 to 0.03; x 0.1 at "
        "epoch 80 = "
        "step 3,280 to 0.003. The last step, 3,689, has 0.003.",
        "optimizer": "sgd: v = 0.9 v + d; w -= rate v, with d = g + 5e-05 w.",
        "regularisation": "Weight decay 5e-05 on every parameter, plain cross entropy.",
        "initial": "Scales of batch normalisation start at 1; the classifier is uniform; seed 0.",
        "batchnorm": "local: over the 128 images of each worker. Running statistics move by 0.1 a step; evaluation uses the "
        "mean of the workers' running statistics.",
        "evaluation": "Every epoch and at the end, 90 time(s): every image once.",
        "arithmetic": "reproducible, fp32, 1 worker(s) a forward pass, channels last.",
    }


def test_a_recipe_of_the_logs():
    """39 steps an epoch; the last step of warmup is at 29 x 705/706, the last of all at 1e-4 + 28.9999 (2/1641)^2."""
    found = explained("mlperf-lars:32768")
    assert found["length"] == "2,346 steps, 39 an epoch; tail drop: 3,215 images dropped an epoch."
    assert found["rate"] == "The peak rate is 29, whatever the batch."
    assert found["warmup"] == (
        "706 step(s) = 18.1 epochs, linear: step 0 has the rate 0, step 705 has 28.9589, step 706 has 29."
    )
    assert found["decay"] == "After the warmup (1 - t)^2, to 0.0001 at the end. The last step, 2,345, has 0.000143076."
    assert found["regularisation"] == (
        "Weight decay 0.0001 on all but the scales and shifts of batch normalisation and the biases, label smoothing 0.1."
    )
    assert found["initial"] == (
        "Scales of batch normalisation start at 1, that of the last in each residual block at 0; the classifier is uniform; "
        "seed 0."
    )


def test_the_turns_of_other_schedules():
    assert explained("akiba2017")["decay"] == (
        "By steps: x 0.15 at epoch 40 = step 1,560 to 0.96; x 0.133333 at epoch 70 = step 2,730 to 0.128; x 0.1 at "
        "epoch 85 = "
        "step 3,315 to 0.0128. The last step, 3,509, has 0.0128."
    )
    assert explained("akiba2017")["warmup"] == "None: the first step has the rate 6.4."
    assert explained("algoperf-momentum")["decay"] == (
        "After the warmup linear, to 0.0041319 at epoch 106.404 = step 133,111. The last step, 146,998, has 0.0041319."
    )
    assert explained("digits", {"lr_decay": "constant"})["decay"] == (
        "None: the rate stays. The last step, 1,079, has 0.18."
    )
    assert explained("digits", {"decay_at": "12ep,40ep"})["decay"] == (
        "By steps: x 0.1 at epoch 12 = step 360 to 0.018; x 0.1 at epoch 40 = step 1,200, after the end. The last step, "
        "1,079, has 0.018."
    )
    assert explained("digits", {"decay_at": ""})["decay"] == "By steps: none. The last step, 1,079, has 0.18."
    assert explained("digits", {"warmup": "1st"})["warmup"] == (
        "1 step(s) = 0.03333 epochs, linear: step 0 has the rate 0.18, step 1 has 0.18."
    )
    assert explained("digits", {"warmup": "1080st"})["warmup"] == (
        "1,080 step(s) = 36 epochs, linear: step 0 has the rate 0.045125, step 1,079 has 0.18."
    )


def test_workers_that_join():
    found = explained("digits", {"worker_ramp": "12ep:8,24ep:16"})
    assert found["workers"] == (
        "4 node(s) x 1 = 4 worker(s) take 8 images each: 32 a step. From epoch 12 on there are 8: 64 a step. From "
        "epoch 24 on "
        "there are 16: 128 a step."
    )
    assert "at epoch 12 = step 360 to 0.036; x 0.1 at epoch 24 = step 540 to 0.0072; " in found["decay"]
    assert found["length"] == (
        "36 epochs = 624 steps, 30 an epoch; tail drop: none left over. From epoch 12 on 15 an epoch; tail drop: none left "
        "over. From epoch 24 on 7 an epoch; tail drop: 64 images dropped an epoch."
    )


def test_adascale_counts_in_steps_of_one_worker():
    """960 images by 8 make 120 steps an epoch for one worker."""
    found = explained("digits", {"scaling": "adascale", "reference_batch": "none"})
    assert found["length"] == (
        "36 epochs = 4,320 steps of one worker, fewer of all together, 30 an epoch; tail drop: none left over."
    )
    assert found["warmup"].startswith("240 step(s), linear: step 0 has the rate 0.045")
    assert found["decay"].startswith("By steps: x 0.1 at 12 epochs of one worker; x 0.1 at 24 epochs of one worker; ")
    assert found["evaluation"] == "Every epoch and at the end, at most 144 time(s): every image once."  # 4,320 steps by 30


def test_the_fields_that_reasons_are_for():
    """Every topic that a shipped recipe gives a reason for is known, with fields that there are."""
    topics = {topic for name in recipes.names() for topic in recipes.load(name).about.get("why", {})}
    assert topics <= set(RESTS_ON) <= set(TOPICS)
    assert {field for fields in RESTS_ON.values() for field in fields} <= set(Recipe.model_fields)


@pytest.mark.parametrize(
    ("changes", "topic", "part"),
    [
        ({"dropout": "0.2", "clip_norm": "1"}, "regularisation", "dropout 0.2 before the classifier, gradients of a norm"),
        ({"weight_decay": "0"}, "regularisation", "No weight decay, plain cross entropy."),
        ({"classifier_std": "0.01", "seed": "7"}, "initial", "is normal with standard deviation 0.01; seed 7."),
        ({"batchnorm": "sync"}, "batchnorm", "sync: over the 32 images of the global batch."),
        ({"batchnorm": "group:2"}, "batchnorm", "group:2: over the 16 images of neighbouring workers."),
        ({"batchnorm_running": "precise"}, "batchnorm", "evaluation uses statistics computed anew from training images."),
        ({"evaluation": "batch-means"}, "evaluation", "36 time(s): as the mean over workers of the mean of their batches."),
        ({"evaluate_every": "7ep"}, "evaluation", "Every 7 epochs and at the end, 6 time(s): every image once."),
        ({"evaluate_every": "200st"}, "evaluation", "Every 200 steps and at the end, 6 time(s): "),
        ({"val_images": "100"}, "evaluation", "each of 100 images spread over all once."),
        ({"precision": "bf16", "tf32": "true", "stack": "4"}, "arithmetic", "reproducible, bf16 with TF32, 4 worker(s)"),
        ({"precision": "bf16", "stack": "4"}, "arithmetic", "stacks of 4."),
        ({"memory_format": "channels_last", "compile": "default"}, "arithmetic", "pass, channels last, compiled (default)."),
        ({"mode": "fast", "compression": "fp16"}, "arithmetic", "forward pass, gradients exchanged as fp16."),
        ({"augment": "shift-flip"}, "data", "digits-resnet trains on 960 images (digits), changed at random by shift-flip."),
        ({"epochs": "34560im"}, "length", "34,560 images = 1,080 steps, 30 an epoch; "),
    ],
)  # fmt: skip
def test_by_hand(changes, topic, part):
    assert part in explained("digits", changes)[topic]


@pytest.mark.parametrize(
    ("most", "topic", "part"),
    [
        (3, "arithmetic", "fp32, 3 forward passes a worker, at most 3 images each."),
        (3, "batchnorm", "local: over the 2 to 3 images of each of the 3 forward passes of a worker."),
        (4, "batchnorm", "local: over the 4 images of each of the 2 forward passes of a worker."),
        (8, "batchnorm", "local: over the 8 images of each worker."),
        (8, "arithmetic", "fp32, 1 worker(s) a forward pass."),
    ],
)
def test_passes_of_a_worker(most, topic, part):
    """Workers of 8 images."""
    assert part in explained("digits", {"workers_per_forward": "1", "images_per_forward": most})[topic]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"optimizer": "sgd", "weight_decay": "0"}, "v = 0.9 v + d; w -= rate v, with d = g"),
        ({"optimizer": "nesterov"}, "v = 0.9 v + d; w -= rate (d + 0.9 v), with d = g + 5e-05 w"),
        (
            {"optimizer": "lars-tf"},
            "v = 0.9 v + rate t d; w -= v, with d = g + 5e-05 w, t = 0.001 |w| / (|g| + 5e-05 |w|), 1 on scales and "
            "shifts of "
            "batch normalisation and on biases",
        ),
        (
            {"optimizer": "lars-torch", "trust_epsilon": "1e-8", "trust_exempt": "batchnorm"},
            "v = 0.9 v + t d; w -= rate v, with d = g + 5e-05 w, t = 0.001 |w| / (|g| + 5e-05 |w| + 1e-08), 1 on scales and "
            "shifts of batch normalisation",
        ),
        (
            {"optimizer": "lars-nus", "weight_decay": "0", "trust_exempt": "none"},
            "v = 0.9 v + d; w -= rate t v, with d = g, t = 0.001 |w| / (|g|), 1 on tensors of norm 0",
        ),
        (
            {"optimizer": "adamw", "weight_decay": "0.1"},
            "w -= rate (r + 0.1 w), with m = 0.9 m + 0.1 g, s = 0.999 s + 0.001 g^2 and r = m' / (sqrt(s') + 1e-08), "
            "m' and s' "
            "corrected for their start at 0",
        ),
        (
            {"optimizer": "lamb", "weight_decay": "0.1"},
            "w -= rate t (r + 0.1 w), with m = 0.9 m + 0.1 g, s = 0.999 s + 0.001 g^2 and r = m' / (sqrt(s') + 1e-08), "
            "m' and "
            "s' corrected for their start at 0, t = |w| / |r + 0.1 w|, 1 on scales and shifts of batch normalisation and on "
            "biases",
        ),
        (
            {"optimizer": "rmsprop-sgd", "beta2": "0.99"},
            "s = 0.99 s + 0.01 d^2; v = 0.9 v - (a + (1 - a) (0.0003 / rate) / (sqrt(s) + 1e-08)) d; w += rate v, with "
            "d = g + "
            "5e-05 w; a rises to 1/2 within 10 epochs and to 1 within half of 5 epochs more",
        ),
    ],
    ids=lambda value: value["optimizer"] if isinstance(value, dict) else "",
)
def test_the_step_of_every_optimizer(settings, line):
    """Statement O2, and the steps of the optimizers as their classes document them."""
    assert formula(recipes.changed(Recipe(), settings)) == line
