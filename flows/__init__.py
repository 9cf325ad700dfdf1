"""The order of the stages: the Prefect flow, the settings file and the command line."""
