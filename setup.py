"""What pyproject.toml cannot say: a wheel has in its package what lies at the top of a checkout."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

#: As synth_pipeline/shipped.py looks for them; MANIFEST.in names them for a source distribution.
SHIPPED = ("configs", "constraints.txt", "deploy/automations.yaml", "prefect.yaml")


class BuildWithShippedFiles(build_py):
    """Copies them, except for an editable install, which finds them where they are."""

    def run(self) -> None:
        """Build as always, then copy."""
        super().run()
        if self.editable_mode:
            return
        for name in SHIPPED:
            target = Path(self.build_lib) / "synth_pipeline" / "assets" / "shipped" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if Path(name).is_dir():
                shutil.copytree(name, target, dirs_exist_ok=True)
            else:
                shutil.copyfile(name, target)


setup(cmdclass={"build_py": BuildWithShippedFiles})
