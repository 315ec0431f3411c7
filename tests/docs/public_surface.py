"""The public names as an editor sees them: pyright checks this file, nobody runs it."""

from pathlib import Path
from typing import assert_type

import keras
import numpy as np

import resnext_keras as rk

images = np.zeros((1, 64, 64, 3), "uint8")

model = rk.ResNeXt50(weights=None, input_shape=(64, 64, 3), classes=3)
assert_type(model, keras.Model)
rk.ResNeXt50(False, Path("x.pth"), pooling="avg", output_stride=16)
rk.ResNeXt101_64x4d(
    include_top=True, weights="imagenet", classifier_activation=None, name="mine"
)
rk.ResNeXt("resnext50_32x4d", weights=None, drop_path_rate=0.1)
rk.ResNeXt(rk.ResNeXtSpec("mine", (1, 1), 4, 4, stem="cifar"), weights=None)
assert_type(rk.list_models(), list[str])
assert_type(rk.list_recipes(), list[rk.Recipe])
assert_type(rk.list_weights("resnext50_32x4d"), list[str])

assert_type(rk.read_image("cat.jpg", rk.Preprocessing(224, 256)), np.ndarray)
classifier = rk.load_classifier(weights="digits")
assert_type(classifier, rk.Classifier)
rk.decode_predictions(model.predict(rk.preprocess_input(images)), top=1)
rk.class_names("imagenet")
rk.weights_preprocessing("imagenet", 224)
assert_type(rk.weights_info("digits").path, Path | None)
assert_type(rk.fetch_weights("digits"), list[Path])
rk.verify_weights("digits").top1.title()
print(rk.stage_costs(model)[0].multiply_adds)
rk.convert_weights("x.pth", "x.weights.h5")

rk.feature_pyramid(model, ("C3", "C4"))
rk.freeze(model, until="conv3")
assert_type(rk.grad_cam(model, images), np.ndarray)
rk.overlay(images[0], np.zeros((2, 2)))
rk.fold_batch_norm(model)
predictor = rk.Predictor(model, engine="tensorflow", batch_size=8)
predictor(images).argmax()
rk.quantize(model, images, "x.onnx")
rk.export_saved_model(model, "flowers", class_names=["a", "b", "c"], top=2)
rk.export_file(model, "x.onnx", "float16")

for path, predictions in rk.predict_files(["cat.jpg"], top=1).predictions:
    print(path, predictions[0])
rk.explain("cat.jpg", weights="digits", classes=["3"], output="x.png")
rk.extract(["photos"], "x.parquet", "resnext50_32x4d", dtype="float16")
rk.search("cat.jpg", ["x.parquet"], top=3)
rk.evaluate("data", weights="run", labels="labels.csv")
rk.finetune("data", "run", epochs=3, callbacks=[keras.callbacks.CSVLogger("x.csv")])
rk.train("data", "run", "resnext50_32x4d", recipe="paper", resume=True)
rk.export_model("resnext50_32x4d", ["photos"], formats=["onnx"])
model.compile(rk.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy")
