import numpy as np
import pytest
import torch
from PIL import Image

from rtdetr.config import Recipe
from rtdetr.data import DetectionDataset, TrainLoader
from rtdetr.data.batches import BatchBuilder, BatchKey
from rtdetr.data.copy_paste import MIN_VISIBLE, Paste, draw_pastes, paste_objects
from rtdetr.data.outlines import RunLengths, coverage, read_outlines
from rtdetr.data.schedule import EpochPlan
from rtdetr.data.transforms import Objects, Window, augment, draw_view
from tests.coco_files import annotation, document, many_images, write_dataset
from tests.data.test_loader import assert_same, epoch

PLAN = EpochPlan(strong=True, size_hw=(64, 64), batch_sizes_hw=((64, 64),), copy_paste=1.0)
PASTING = Recipe(
    batch_size=4, train_size_hw=(64, 64), multiscale_sizes=(), copy_paste=1.0, mosaic=0.3, augmentation_stop_epoch=3
)


def objects(size_wh: tuple[int, int], *boxes_xyxy: tuple[float, ...], first: int = 0) -> Objects:
    boxes = np.array(boxes_xyxy, dtype=np.float32).reshape(-1, 4)
    return Objects(size_wh, boxes, np.arange(first, first + len(boxes)))


def drawn(
    image: Objects, other: Objects, seed: int, *, outlines=None, flip: float = 0.5
) -> tuple[Objects, list[Paste]]:
    outlines = [None] * len(other.labels) if outlines is None else outlines
    return draw_pastes(image, other, outlines, plan=PLAN._replace(flip=flip), rng=np.random.default_rng(seed))


def pasted(pixels: np.ndarray, other: np.ndarray, pastes: list[Paste], *, wh=None, other_wh=None) -> np.ndarray:
    return paste_objects(
        pixels,
        pastes,
        size_wh=wh or pixels.shape[1::-1],
        other_size_wh=other_wh or other.shape[1::-1],
        read_other=lambda reduction: other[::reduction, ::reduction],
    )


def extent(found: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_a_paste_is_exactly_where_it_should_be():
    other = np.zeros((40, 40, 3), np.uint8)
    other[10:20, 10:30] = np.arange(20)[None, :, None] * 10 + 20
    for flip in (False, True):
        paste = Paste((10, 10, 30, 20), Window(5, 7, 20, 10), flip, 0.0, None)
        result = pasted(np.full((50, 60, 3), 255, np.uint8), other, [paste])
        part = other[10:20, 10:30]
        np.testing.assert_array_equal(result[7:17, 5:25], part[:, ::-1] if flip else part)
        result[7:17, 5:25] = 255
        assert (result == 255).all()
    soft = pasted(np.zeros((50, 60, 3), np.uint8), np.full((40, 40, 3), 200, np.uint8), [paste._replace(feather=0.3)])
    assert soft[7, 5:25].max() < soft[8, 6:24].max() < soft[11, 12, 0] == 200
    assert extent(soft[..., 0] > 0) == [5, 7, 25, 17]


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_boxes_enclose_the_pasted_pixels(flip):
    # only the object is white; a box off its center shows a wrong flip
    other = np.zeros((120, 200, 3), np.uint8)
    other[40:60, 20:50] = 255
    for seed in range(30):
        found, [paste] = drawn(objects((90, 70)), objects((200, 120), (20, 40, 50, 60), first=7), seed, flip=flip)
        assert found.labels.tolist() == [7] and paste.flip == bool(flip)
        result = pasted(np.zeros((70, 90, 3), np.uint8), other, [paste._replace(feather=0.0)])
        np.testing.assert_allclose(extent(result[..., 0] > 127), found.boxes_xyxy[0], atol=0.51)
    width, height = paste.place[2:]
    _, [half] = drawn(objects((90, 70)), objects((200, 120), (20.5, 40, 50, 60)), seed, flip=flip)
    moved = drawn(objects((90, 70)), objects((200, 120), (20.5, 40, 50, 60)), seed, flip=flip)[0].boxes_xyxy[0]
    inset = 0.5 / 30 * width
    low, high = half.place.left, half.place.left + width
    expected = (low, high - inset) if flip else (low + inset, high)
    np.testing.assert_allclose(moved[[0, 2]], expected, atol=1e-4)
    assert moved[3] - moved[1] == pytest.approx(height)


def test_the_size_is_relative_to_the_images():
    sides = []
    for seed in range(100):
        found, _ = drawn(objects((400, 200)), objects((800, 400), (100, 100, 180, 160)), seed)
        sides.append(found.boxes_xyxy[0, 2] - found.boxes_xyxy[0, 0])
    assert 20 <= min(sides) < 26 and 62 < max(sides) <= 80  # 80 pixels at half the image size, times 0.5 to 2


CORNERS = [(x, y) for x in (0, 40, 80) for y in (0, 40, 80)]


@pytest.mark.parametrize(
    ("image", "other"),
    [
        (  # small objects, and others that can hide one, or several of them
            objects((100, 100), *((x + 5, y + 3, x + 19, y + 17) for x, y in CORNERS)),
            objects((120, 120), (0, 0, 48, 36), (60, 0, 96, 36), (0, 60, 60, 108), (72, 72, 73, 73), first=20),
        ),
        (  # a large object, and many that can hide it together
            objects((100, 100), (20, 10, 90, 80)),
            objects((120, 120), *((x, y, x + 36, y + 36) for x, y in CORNERS), first=20),
        ),
    ],
)
def test_no_object_is_mostly_hidden(image, other):
    before, covered, refused = len(image.labels), 0, 0
    for seed in range(40):
        found, pastes = drawn(image, other, seed)
        np.testing.assert_array_equal(found.boxes_xyxy[:before], image.boxes_xyxy)  # boxes stay whole
        np.testing.assert_array_equal(found.labels[:before], image.labels)
        top = np.full((100, 100), before - 1)  # row of the topmost pasted object
        for row, paste in enumerate(pastes, start=before):
            x, y, width, height = paste.place
            top[y : y + height, x : x + width] = row
        for row, box in enumerate(found.boxes_xyxy):
            x0, y0, x1, y1 = np.round(box).astype(int)
            visible = (top[y0:y1, x0:x1] <= max(row, before - 1)).mean()
            assert visible >= MIN_VISIBLE - 0.1  # visibility is checked on a grid of 12 x 12 points
            covered += visible < 1
        refused += len(pastes) < 3
    assert covered > 20 and refused > 5


def test_a_paste_without_a_place_is_omitted():
    full = objects((20, 20), *((x, y, x + 2, y + 2) for x in range(0, 20, 2) for y in range(0, 20, 2)))
    found, pastes = drawn(full, objects((20, 20), (0, 0, 20, 20)), 0)
    assert not pastes and len(found.labels) == 100


def test_rectangles_with_parts_of_other_objects_are_not_pasted():
    other = objects((100, 100), (0, 0, 50, 50), (40, 10, 90, 60), (95, 95, 100, 100))
    assert {label for seed in range(20) for label in drawn(objects((80, 80)), other, seed)[0].labels} == {2}
    triangle = (np.array([(0, 0), (50, 0), (0, 50)], np.float32),)
    found = [drawn(objects((80, 80)), other, seed, outlines=[triangle, None, None]) for seed in range(20)]
    assert {label for image, _ in found for label in image.labels} == {0, 2}


def test_an_object_is_cut_out_along_its_outline():
    other = np.full((60, 60, 3), 250, np.uint8)
    triangle = (np.array([(10, 10), (50, 10), (10, 50)], np.float32),)
    rows, columns = np.mgrid[:60, :60]
    mask = (columns >= 10) & (rows >= 10) & (columns + rows < 60)
    runs = np.flatnonzero(np.diff(np.concatenate([[False], mask.T.ravel(), [False]])))
    lengths = np.diff(np.concatenate([[0], runs, [3600]]))
    for outline in (triangle, RunLengths((60, 60), lengths)):
        paste = Paste((10, 10, 50, 50), Window(20, 5, 40, 40), False, 0.0, outline)
        result = pasted(np.zeros((50, 70, 3), np.uint8), other, [paste])
        expected = np.zeros((50, 70), bool)
        expected[5:45, 20:60] = mask[10:50, 10:50]
        assert ((result[..., 0] > 125) != expected).sum() <= 41  # pixels on the hypotenuse
        assert not result[..., 0][:, :20].any()
        mirrored = pasted(np.zeros((50, 70, 3), np.uint8), other, [paste._replace(flip=True)])
        np.testing.assert_array_equal(mirrored[5:45, 20:60], result[5:45, 20:60][:, ::-1])


def test_an_outline_beside_its_box_is_not_pasted():
    other = objects((100, 100), (0, 0, 20, 20))
    beside = (np.array([(60, 60), (90, 60), (60, 90)], np.float32),)
    assert not any(drawn(objects((80, 80)), other, seed, outlines=[beside])[1] for seed in range(10))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_reduced_images_of_any_number_of_channels(channels):
    rng = np.random.default_rng(0)
    image, other = (np.repeat(np.repeat(rng.integers(0, 256, (32, 32, channels), np.uint8), 8, 0), 8, 1) for _ in "ab")
    paste = Paste((64, 64, 192, 192), Window(32, 64, 32, 32), False, 0.0, None)
    whole = pasted(image, other, [paste])
    assert whole.shape == image.shape
    reduced = pasted(image[::2, ::2], other, [paste], wh=(256, 256))
    reduced[32:48, 16:32], untouched = 0, image[::2, ::2].copy()
    untouched[32:48, 16:32] = 0
    np.testing.assert_array_equal(reduced, untouched)
    reduced = pasted(image[::2, ::2], other, [paste], wh=(256, 256))
    mean = other[64:192, 64:192].mean(axis=(0, 1))
    for result, scale in ((whole, 1), (reduced, 2)):
        part = result[64 // scale : 96 // scale, 32 // scale : 64 // scale]
        np.testing.assert_allclose(part.mean(axis=(0, 1)), mean, atol=2)
    tiny = Paste((0, 0, 1, 1), Window(255, 255, 1, 1), True, 0.1, None)
    other[0, 0] = 77
    assert (pasted(image, other, [tiny])[255, 255] == 77).all()
    assert (pasted(image[::8, ::8], other, [tiny], wh=(256, 256))[31, 31] == 77).all()


@pytest.mark.parametrize("size_wh", [(1, 1), (1, 50), (300, 2)])
def test_odd_sizes(size_wh):
    width, height = size_wh
    box = objects(size_wh, (0, 0, width, height), first=3)
    for image, other in (
        (objects((40, 30)), box),
        (objects(size_wh), objects((40, 30), (3.2, 4.1, 4.2, 5.1), first=3)),
    ):
        found, [paste] = drawn(image, other, 1)
        assert found.labels.tolist() == [3]
        x0, y0, x1, y1 = found.boxes_xyxy[0].tolist()
        assert 0 <= x0 < x1 <= image.size_wh[0] and 0 <= y0 < y1 <= image.size_wh[1]
        black, white = (np.full((*one.size_wh[::-1], 3), v, np.uint8) for one, v in ((image, 0), (other, 255)))
        assert pasted(black, white, [paste]).any()
    assert drawn(box, objects((9, 9)), 0)[1] == []


def test_outlines_are_read_from_coco_files(tmp_path):
    content = document()
    square = [20, 30, 30, 30, 30, 40]
    content["annotations"][0] |= {"bbox": None, "image_id": "30", "segmentation": [square]}
    content["annotations"][1]["segmentation"] = {"size": [40, 60], "counts": [100, 20, 2280]}
    content["annotations"][2]["segmentation"] = {"size": [4, 6], "counts": [24]}  # of another size
    content["annotations"][3]["segmentation"] = [[1, 2, 3]]  # not a polygon
    outlines = read_outlines(DetectionDataset(*write_dataset(tmp_path, content)))
    assert list(outlines) == [0, 3]  # image 20 is the second of three, 30 the third
    assert outlines[0].size_hw == (40, 60) and outlines[0].lengths.tolist() == [100, 20, 2280]
    assert outlines[3][0].tolist() == np.reshape(square, (-1, 2)).tolist()
    assert (
        coverage(outlines[0], (2, 20, 3, 40), (20, 1)).all() and not coverage(outlines[0], (3, 0, 60, 40), (4, 4)).any()
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return DetectionDataset(*write_dataset(tmp_path_factory.mktemp("set"), many_images(16)))


def test_batches_depend_only_on_seed_epoch_and_position(dataset):
    alone = TrainLoader(dataset, PASTING, seed=2)
    first = epoch(alone, 1)
    assert_same(first, epoch(TrainLoader(dataset, PASTING, seed=2, num_workers=2), 1))
    assert_same(first[2:], epoch(alone, 1, start_batch=2))
    share = epoch(TrainLoader(dataset, PASTING, seed=2, rank=1, world_size=2), 1)
    assert all(torch.equal(images[1::2], own) for (images, _), (own, _) in zip(first, share, strict=True))


def test_switched_off_it_draws_no_random_number(dataset):
    plan = PLAN._replace(copy_paste=0.0)
    batch = BatchBuilder(dataset, PASTING, seed=5).build(BatchKey(1, 0, [3], [6]), plan)
    rng = np.random.default_rng([2, 5, 1, 6])
    rng.random()  # whether it is a mosaic
    pixels, target = dataset.load_array(3)
    found = Objects(target["size_wh"], target["boxes_xyxy"], target["labels"])
    sample = augment(pixels, found, draw_view(found, plan=plan, rng=rng), plan=plan, rng=rng)
    np.testing.assert_array_equal(batch.images[0], sample.pixels)
    np.testing.assert_array_equal(batch.boxes, sample.target["boxes"])


def test_it_pastes_until_mixing_stops(dataset):
    recipe = PASTING.replace(mosaic=0.0, mixing_stop_epoch=1)
    plain = recipe.replace(copy_paste=0.0)
    (early, late), (plain_early, plain_late) = (
        [epoch(TrainLoader(dataset, one), number) for number in (0, 1)] for one in (recipe, plain)
    )
    assert not any(torch.equal(a[0], b[0]) for a, b in zip(early, plain_early, strict=True))
    assert_same(late, plain_late)


def test_datasets_of_one_image_without_objects_and_with_crowds(tmp_path):
    content = many_images(1)
    content["annotations"] = [annotation(1, 1, 7, [3, 3, 8, 8])]
    recipe = PASTING.replace(batch_size=1, mosaic=0.0, augmentation_start_epoch=0)
    one = DetectionDataset(*write_dataset(tmp_path / "one", content))
    labels = [
        targets[0]["labels"].tolist() for number in range(3) for _, targets in epoch(TrainLoader(one, recipe), number)
    ]
    assert max(map(len, labels)) == 2
    for name, rows in (("none", []), ("crowd", [annotation(1, 1, 7, [3, 3, 8, 8], iscrowd=1)])):
        empty = DetectionDataset(*write_dataset(tmp_path / name, {**content, "annotations": rows}))
        assert [len(targets[0]["labels"]) for _, targets in epoch(TrainLoader(empty, recipe))] == [0]


def test_crowds_are_not_pasted_and_outlines_belong_to_their_objects(tmp_path):
    content = many_images(2)
    content["images"] = [{"id": i, "file_name": f"{i}.png", "width": 50, "height": 50} for i in (1, 2)]
    crowd = annotation(1, 1, 90, [0, 0, 50, 50], iscrowd=1, segmentation={"size": [50, 50], "counts": [0, 2500]})
    triangle = annotation(2, 1, 7, [10, 10, 20, 20], segmentation=[[10, 10, 30, 10, 10, 30]])
    folder, file = write_dataset(tmp_path, {**content, "annotations": [crowd, triangle]})
    for number, color in ((1, (255, 255, 255)), (2, (0, 0, 0))):
        Image.new("RGB", (50, 50), color).save(folder / f"{number}.png")
    plan = PLAN._replace(strong=False, size_hw=(64, 64), flip=0.0)  # no crop and no colors
    dataset = DetectionDataset(folder, file)
    builder = BatchBuilder(dataset, PASTING, seed=0)
    for number in range(10):
        batch = builder.build(BatchKey(0, number, [1], [number]), plan)
        [(cx, cy, w, h)], [label] = (batch.boxes * 64).tolist(), batch.labels.tolist()
        assert dataset.categories.names[label] == "dog"
        white = np.asarray(batch.images)[0, ..., 0] > 127
        np.testing.assert_allclose(extent(white), [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], atol=3)
        assert 0.35 < white.sum() / (w * h) < 0.65  # a triangle


def test_a_rectangle_with_a_part_of_a_crowd_region_is_not_pasted():
    image, other = objects((64, 64)), objects((64, 64), (10, 10, 30, 30))
    for crowd, count in (((0.0, 0.0, 64.0, 64.0), 0), ((40.0, 40.0, 64.0, 64.0), 1)):
        crowds = np.array([crowd], np.float32)
        rng = np.random.default_rng(0)
        _, pastes = draw_pastes(image, other, [None], crowds_xyxy=crowds, plan=PLAN, rng=rng)
        assert len(pastes) == count


def test_a_readable_image_is_used_when_the_source_of_pasted_objects_cannot_be_read(tmp_path, caplog):
    images, annotations = write_dataset(tmp_path, many_images(6, seed=0))
    dataset = DetectionDataset(images, annotations)
    good, *others = np.argsort(-np.diff(dataset.annotations.starts), kind="stable").tolist()
    for bad in others:
        content = dataset.path(bad).read_bytes()
        dataset.path(bad).write_bytes(content[: len(content) // 2])
    builder = BatchBuilder(dataset.skipping_bad_images(), PASTING.replace(mosaic=0.0, batch_size=1), seed=0)
    batch = builder[BatchKey(0, 0, [good], [0])]
    assert not isinstance(batch, Exception) and batch.images.shape == (1, 64, 64, 3)
    (reason,) = caplog.messages  # the source was tried, and then the image alone
    assert dataset.path(good).name not in reason and reason.startswith("skipped: ")
