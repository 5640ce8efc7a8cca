"""What pyproject.toml cannot say: the folders experiments and configs are packages inside of cnnjax."""

from setuptools import find_packages, setup

FOLDERS = ("experiments", "configs")

setup(packages=[*find_packages(include=["cnnjax*"]),
                *(f"cnnjax.{name}" for name in find_packages(include=[f"{folder}*" for folder in FOLDERS]))],
      package_dir={f"cnnjax.{folder}": folder for folder in FOLDERS})
