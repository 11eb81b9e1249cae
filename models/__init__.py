import os

# ONNX Runtime's builds keep an id of the machine and send events to Microsoft, unless they are told before the import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
