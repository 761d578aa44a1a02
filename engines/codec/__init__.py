"""Learned video codecs: pictures in YUV 4:2:0 to bytes and back, their training and evaluation."""
