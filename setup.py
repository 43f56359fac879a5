"""Maps the source folders to the package `pannier`, and builds the extension and the binary from one Rust workspace.

`pannier` itself is `shared/core/python/pannier`, which holds only `_native.pyi`: without that entry an editable
install puts the compiled extension into a stray folder and fails.
"""

import shutil
import sys

from setuptools import find_packages, setup
from setuptools_rust import Binding, RustBin, RustExtension

FOLDERS = ("shared", "sidecars", "supervisor", "profiles")

if shutil.which("cargo") is None and any(a in {"bdist_wheel", "build", "editable_wheel", "develop"} for a in sys.argv):
    sys.exit("pannier builds a native data path: install Rust 1.85 or newer (https://rustup.rs), then run this again")

packages = ["pannier"]
package_dir = {"pannier": "shared/core/python/pannier"}
for folder in FOLDERS:
    packages += [f"pannier.{folder}"]
    packages += [f"pannier.{folder}.{inner}" for inner in find_packages(folder, exclude=["core", "core.*"])]
    package_dir[f"pannier.{folder}"] = folder

setup(
    packages=packages,
    package_dir=package_dir,
    rust_extensions=[
        RustExtension(
            "pannier._native",
            "shared/core/python/Cargo.toml",
            binding=Binding.PyO3,
            py_limited_api=True,
            debug=False,
        ),
        RustBin("pannierd", "shared/core/pannierd/Cargo.toml", debug=False),
        RustBin("pannier-keeper", "shared/core/pannierd/Cargo.toml", debug=False),
    ],
    zip_safe=False,
    options={"bdist_wheel": {"py_limited_api": "cp311"}, "build": {"build_base": ".build"}},
)
