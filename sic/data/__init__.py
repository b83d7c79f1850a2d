"""The photos: which of them train, validate and test (`sets`), COCO and its archives (`coco`), and
the random crops that training sees (`crops`)."""
