"""The canonical mesh, read out of MediaPipe's own file."""

import zipfile

import numpy as np
import pytest

from synth_pipeline.errors import InputError
from synth_pipeline.phantom import mesh as m


def test_the_mesh_is_a_face(landmark_model):
    mesh = m.load_mesh(landmark_model)
    assert mesh.vertices.shape == (468, 3)
    assert mesh.triangles.shape == (898, 3)
    assert mesh.triangles.min() == 0
    assert mesh.triangles.max() == 467
    chin, top = mesh.vertices[m.CHIN], mesh.vertices[m.FOREHEAD]
    assert 15 < top[1] - chin[1] < 20, "a face is about 18 cm high"
    assert mesh.vertices[m.NOSE_TIP, 2] == pytest.approx(mesh.vertices[:, 2].max(), abs=0.01)


def test_left_and_right_mirror_each_other(landmark_model):
    vertices = m.load_mesh(landmark_model).vertices
    for one, other in (m.EYES, m.BROWS):
        assert np.allclose(vertices[list(one)] * (-1, 1, 1), vertices[list(other)], atol=1e-3)


@pytest.mark.parametrize("content", [b"", b"no archive at all"])
def test_a_file_that_is_no_model_is_the_users_mistake(tmp_path, content):
    path = tmp_path / "face_landmarker.task"
    path.write_bytes(content)
    with pytest.raises(InputError, match="doctor --fetch"):
        m.load_mesh(path)


def test_an_archive_without_a_mesh_is_the_users_mistake(tmp_path):
    path = tmp_path / "face_landmarker.task"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("geometry_pipeline_metadata_landmarks.binarypb", b"\x0a\x02\x08\x01")
    with pytest.raises(InputError, match="no canonical face mesh"):
        m.load_mesh(path)
