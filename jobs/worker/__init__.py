"""The process that runs tasks and workflows."""
