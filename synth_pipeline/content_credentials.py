"""Content credentials (C2PA): a signed statement in each image that a model made it.

The plain metadata says so too, but anybody can remove or invent it. This needs the optional extra
`c2pa` and a certificate of one's own; a chain that verifiers trust is issued by an authority.
Signing draws random numbers, so a signed image is not the same bytes twice.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from synth_pipeline.errors import InputError
from synth_pipeline.shipped import INSTALL

#: IPTC's word for media made by a trained model.
_MADE_BY_A_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


class Signer:
    """Signs PNG files with one certificate.

    Args:
        certificate: PEM; the chain, one's own certificate first.
        key: PEM; the private key of the first certificate, Ed25519 or ECDSA on P-256.

    Raises:
        InputError: the extra is not installed, or a file cannot be used.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        if not find_spec("c2pa"):
            raise InputError(f"sampling.c2pa_certificate needs c2pa-python: {INSTALL} c2pa-python.")
        import c2pa

        try:
            chain, private = certificate.read_bytes(), key.read_bytes()
        except OSError as error:
            raise InputError(
                f"{error.filename} cannot be read ({error.strerror}); mend "
                "sampling.c2pa_certificate or sampling.c2pa_key."
            ) from None
        self._signer: Any = None
        for algorithm in (b"ed25519", b"es256"):
            info = c2pa.C2paSignerInfo(algorithm, chain, private, None)
            try:
                self._signer = c2pa.Signer.from_info(info)
                break
            except c2pa.C2paError:
                continue
        if self._signer is None:
            raise InputError(
                f"{certificate} and {key} are no certificate chain and its private key (Ed25519 or "
                "ECDSA on P-256, both PEM); mend sampling.c2pa_certificate or sampling.c2pa_key."
            )

    def sign(self, path: Path, about: dict[str, str]) -> None:
        """Sign a PNG in place.

        Args:
            path: the image; replaced in one step.
            about: told beside, in an assertion of our own.
        """
        import c2pa

        manifest = {
            "claim_generator_info": [{"name": "synth-pipeline"}],
            "title": path.name,
            "assertions": [
                {
                    "label": "c2pa.actions",
                    "data": {
                        "actions": [
                            {"action": "c2pa.created", "digitalSourceType": _MADE_BY_A_MODEL}
                        ]
                    },
                },
                {"label": "org.synth-pipeline.image", "data": about},
            ],
        }
        beside = path.with_suffix(".signed")
        with path.open("rb") as plain, beside.open("w+b") as signed:
            c2pa.Builder(json.dumps(manifest)).sign(self._signer, "image/png", plain, signed)
        beside.replace(path)
