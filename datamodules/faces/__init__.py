"""Where the face is in a raw picture: as the dataset says, as a detector finds it, or as it was rendered."""

from datamodules.faces.detectors import DETECTORS, Face
from datamodules.faces.sources import FaceSource, face_source

__all__ = ["DETECTORS", "Face", "FaceSource", "face_source"]
