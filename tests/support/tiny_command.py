"""The command `resnext-keras`, which knows a network named tiny too."""

from resnext_keras.models import specs

TINY = specs.ResNeXtSpec("tiny", (1, 1), 4, 4, stem="cifar")

if __name__ == "__main__":
    from resnext_keras_cli import main

    specs.ARCHITECTURES["tiny"] = TINY
    main()
