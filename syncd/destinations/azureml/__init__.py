"""An Azure Machine Learning workspace as a destination: tracking over MLflow's REST API, the rest in Azure's own ways.

``workspace`` and ``reader`` are the two doors. Tracking is MLflow's, so ``MlflowServer`` and ``MlflowReader`` speak it
here, too; what a workspace does otherwise (artifacts, models) is behind the protocols of ``parts``.
"""
