"""Writers to experiment trackers: TensorBoard, Weights & Biases, trackio and MLflow."""
