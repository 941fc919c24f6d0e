"""From a camera, a video or a list to a window of frames."""
