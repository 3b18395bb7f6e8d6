"""Signed images: a verifier reads that a model made them, and sees a changed pixel."""

import datetime
import json

import c2pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

from synth_pipeline import content_credentials, dreambooth, sampling, synthetic_set
from synth_pipeline.base_model import resolve_base
from synth_pipeline.config import DreamBoothConfig, SamplingConfig
from synth_pipeline.content_credentials import Signer
from synth_pipeline.errors import InputError
from synth_pipeline.store import file_sha256


def name(who):
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "A test"),
            x509.NameAttribute(NameOID.COMMON_NAME, who),
        ]
    )


def certificate(subject, public, authority):
    """Signed by the authority; of the authority itself where the two are one."""
    own = public == authority.public_key()
    begun = datetime.datetime(2026, 1, 1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name("authority"))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begun)
        .not_valid_after(begun + datetime.timedelta(days=36500))
        .add_extension(x509.BasicConstraints(ca=own, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not own,
                key_cert_sign=own,
                crl_sign=own,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()),
            critical=False,
        )
    )
    if not own:
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(usage, critical=False)
    made = builder.sign(authority, hashes.SHA256() if isinstance(authority, EC) else None)
    return made.public_bytes(serialization.Encoding.PEM)


EC = ec.EllipticCurvePrivateKey


@pytest.fixture(params=["ed25519", "es256"])
def identity(request, tmp_path):
    """Files of a certificate chain and its private key."""
    authority, own = (
        ed25519.Ed25519PrivateKey.generate()
        if request.param == "ed25519"
        else ec.generate_private_key(ec.SECP256R1())
        for _ in range(2)
    )
    chain = certificate("laboratory", own.public_key(), authority)
    chain += certificate("authority", authority.public_key(), authority)
    (tmp_path / "chain.pem").write_bytes(chain)
    private = own.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (tmp_path / "key.pem").write_bytes(private)
    return tmp_path / "chain.pem", tmp_path / "key.pem"


@pytest.fixture
def picture(tmp_path):
    Image.effect_noise((64, 64), 50).convert("RGB").save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def read(path):
    told = json.loads(c2pa.Reader(str(path)).json())
    return told["manifests"][told["active_manifest"]], told["validation_results"]["activeManifest"]


def test_a_verifier_reads_what_it_is(identity, picture):
    before = Image.open(picture).tobytes()
    Signer(*identity).sign(picture, {"class_id": "noonan", "seed": "7"})
    manifest, results = read(picture)
    actions = next(a for a in manifest["assertions"] if a["label"].startswith("c2pa.actions"))
    kind = actions["data"]["actions"][0]["digitalSourceType"]
    assert kind.endswith("trainedAlgorithmicMedia")
    own = next(a for a in manifest["assertions"] if a["label"].startswith("org.synth-pipeline"))
    assert own["data"] == {"class_id": "noonan", "seed": "7"}
    # Nobody vouches for the test's authority; all else is in order.
    assert {each["code"] for each in results["failure"]} == {"signingCredential.untrusted"}
    assert Image.open(picture).tobytes() == before
    assert not list(picture.parent.glob("*.signed"))


def test_a_changed_pixel_is_seen(identity, picture):
    Signer(*identity).sign(picture, {})
    content = bytearray(picture.read_bytes())
    place = content.rindex(b"IDAT") + 40
    content[place] ^= 1
    picture.write_bytes(bytes(content))
    codes = {each["code"] for each in read(picture)[1]["failure"]}
    assert "assertion.dataHash.mismatch" in codes


def test_wrong_files_are_one_sentence(identity, tmp_path):
    certificate, key = identity
    with pytest.raises(InputError, match=r"^[^\n]*absent\.pem cannot be read[^\n]*$"):
        Signer(tmp_path / "absent.pem", key)
    with pytest.raises(InputError, match=r"^[^\n]*no certificate chain[^\n]*$"):
        Signer(key, certificate)


def test_without_the_extra_it_is_said(identity, monkeypatch):
    monkeypatch.setattr(content_credentials, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install -c \S*constraints.txt c2pa-python"):
        Signer(*identity)


def test_drawn_images_are_signed_when_asked_for(identity, tiny_base, phantom_files, tmp_path):
    class_id, images = next(iter(phantom_files.items()))
    base = resolve_base(str(tiny_base))
    concept, out_dir = tmp_path / "concept", tmp_path / "samples"
    concept.mkdir()
    out_dir.mkdir()
    who = {"class_id": class_id, "class_name": class_id, "base": base, "seed": 7}
    tuning = DreamBoothConfig(steps=1, rank=2)
    dreambooth.run(tuning, images=images[:2], out_dir=concept, **who)
    sampling.run(
        SamplingConfig(images_per_class=1, steps=1),
        prompt="photo of a child",
        concept_dir=concept,
        out_dir=out_dir,
        signer=Signer(*identity),
        **who,
    )
    sample = synthetic_set.load(out_dir)[0]
    assert sample.sha256 == file_sha256(sample.path)
    manifest, _ = read(sample.path)
    own = next(a for a in manifest["assertions"] if a["label"].startswith("org.synth-pipeline"))
    assert own["data"]["class_id"] == class_id
    assert own["data"]["synthetic"] == "true"
    with Image.open(sample.path) as image:
        assert image.text["synthetic"] == "true"
