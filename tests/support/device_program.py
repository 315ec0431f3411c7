"""The command on several virtual processors; the first argument is their number."""

import sys

import tensorflow as tf

from resnext_keras_cli.main import main

(cpu,) = tf.config.list_physical_devices("CPU")
devices = [tf.config.LogicalDeviceConfiguration()] * int(sys.argv.pop(1))
tf.config.set_logical_device_configuration(cpu, devices)
main()
