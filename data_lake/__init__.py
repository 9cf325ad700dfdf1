"""The contract between the pipeline and the trainer: schemas, artifacts and manifests."""
