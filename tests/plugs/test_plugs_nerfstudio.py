"""What nerfstudio's `ns-process-data images --skip-colmap` reads of a model, with its own parser.

The layout is COLMAP's binary one as documented
(colmap.github.io/format.html), read here by hand as nerfstudio does (colmap/sparse/*/cameras.bin, images.bin).
"""

import struct

import pytest

# id, name and number of parameters of the camera models that nerfstudio supports
MODELS = {0: ("SIMPLE_PINHOLE", 3), 1: ("PINHOLE", 4), 2: ("SIMPLE_RADIAL", 4), 3: ("RADIAL", 5), 4: ("OPENCV", 8)}


class Reader:
    def __init__(self, path):
        self.data, self.at = path.read_bytes(), 0

    def __call__(self, layout):
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def text(self):
        end = self.data.index(b"\0", self.at)
        text, self.at = self.data[self.at : end].decode(), end + 1
        return text


def test_a_model_is_read_as_nerfstudio_reads_it(tmp_path):
    pycolmap = pytest.importorskip("pycolmap", reason="the extra `sfm` is not installed")
    options = pycolmap.SyntheticDatasetOptions(num_rigs=1, num_cameras_per_rig=1, num_frames_per_rig=3, num_points3D=20)
    model = pycolmap.synthesize_dataset(options)
    folder = tmp_path / "colmap" / "sparse" / "0"
    folder.mkdir(parents=True)
    model.write(folder)

    read = Reader(folder / "cameras.bin")
    (number,) = read("Q")
    cameras = {}
    for _ in range(number):
        camera, kind, width, height = read("iiQQ")
        name, parameters = MODELS[kind]
        cameras[camera] = name, width, height, read("d" * parameters)
    assert read.at == len(read.data)
    for key, camera in model.cameras.items():
        assert cameras[key][:3] == (camera.model.name, camera.width, camera.height)
        assert cameras[key][3] == pytest.approx(tuple(camera.params))

    read = Reader(folder / "images.bin")
    names = set()
    for _ in range(read("Q")[0]):
        key, *pose, camera = read("idddddddi")
        names.add(read.text())
        read("ddq" * read("Q")[0])
        rigid = model.images[key].cam_from_world()
        assert pose[4:] == pytest.approx(rigid.translation.tolist())
        assert camera in cameras
    assert read.at == len(read.data)
    assert names == {image.name for image in model.images.values()}
    assert (folder / "points3D.bin").is_file()
