"""The steps of the check, in the environment that ``check.py`` made: ``python -m tests.gpu.steps NAME --work FOLDER``.

Everything goes through the project's own playbooks, roles and tasks; what is looked at beside them is what the tests'
fakes claim of nvidia-smi, NVML and llama-server on a GPU. Without a GPU the steps go as far as the processor lets them.
"""
