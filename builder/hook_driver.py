"""Calls one build hook, inside the sandbox, through pypa/build.

Copied into the build folder beside ``build``, ``pyproject_hooks`` and ``packaging``, and run
by wain's own interpreter without its environment: the backend runs in the build environment,
where none of these are. Arguments: ``requires`` or ``wheel``, the source folder, the Python
of the build environment, the folder for the result.
"""

from __future__ import annotations

import json
import os
import sys

BACKEND_FAILED, NOT_BUILDABLE = 3, 4


def main() -> int:
    """The exit status: 0, BACKEND_FAILED or NOT_BUILDABLE."""
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from build import BuildBackendException, BuildException, ProjectBuilder

    what, source, python, result = sys.argv[1:]
    try:
        project = ProjectBuilder(source, python_executable=python)
        if what == "requires":
            wanted = sorted(project.get_requires_for_build("wheel"))
            with open(os.path.join(result, "requires.json"), "w") as file:
                json.dump(wanted, file)
        else:
            project.build("wheel", result)
    except BuildBackendException as error:
        print(f"build backend: {error}", flush=True)
        return BACKEND_FAILED
    except BuildException as error:
        print(f"not buildable: {error}", flush=True)
        return NOT_BUILDABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
