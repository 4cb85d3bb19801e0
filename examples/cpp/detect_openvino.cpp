// Detect objects in an image with an RT-DETR model in OpenVINO format.
//
//     rtdetr export MODEL --format openvino --output model.xml
//     detect_openvino model.xml image.ppm [threshold]
//
// Print one line per object: score, box (x1 y1 x2 y2, in pixels of the image), label and class name.
//
// Complete preprocessing: 8-bit RGB; stretch to the network size without keeping the aspect ratio, bilinear with
// antialiasing (BILINEAR in Pillow), rounded to 8 bits; divide by 255; no normalization by mean and standard deviation.
// Here OpenVINO does this inside the graph, so the program only passes the pixels.
#include <openvino/openvino.hpp>

#include "detections.hpp"

int main(int count, char** arguments) {
    if (count < 3) {
        std::cerr << "usage: detect_openvino model.xml image.ppm [threshold]\n";
        return 2;
    }
    try {
        const Image image = read_ppm(arguments[2]);
        const float threshold = count > 3 ? read_threshold(arguments[3]) : 0.5f;

        ov::Core core;
        auto model = core.read_model(arguments[1]);
        std::vector<std::string> names;
        if (model->has_rt_info("rtdetr")) names = class_names(model->get_rt_info<std::string>("rtdetr"));

        ov::preprocess::PrePostProcessor steps(model);
        auto& images = steps.input("images");
        images.tensor().set_element_type(ov::element::u8).set_layout("NHWC").set_spatial_static_shape(
            image.height, image.width);
        images.model().set_layout("NCHW");
        images.preprocess()
            .resize(ov::preprocess::ResizeAlgorithm::RESIZE_BILINEAR_PILLOW)
            .convert_element_type(ov::element::f32)
            .scale(255.0f);
        model = steps.build();
        // the precision in which the model was verified; "bf16" is faster on CPUs with AMX
        auto request = core.compile_model(model, "CPU", ov::hint::inference_precision("f32")).create_infer_request();

        const ov::Tensor pixels(ov::element::u8, {1, image.height, image.width, 3},
                                const_cast<uint8_t*>(image.pixels.data()));
        int64_t size_wh[] = {int64_t(image.width), int64_t(image.height)};
        request.set_tensor("images", pixels);
        request.set_tensor("orig_target_sizes", ov::Tensor(ov::element::i64, {1, 2}, size_wh));
        request.infer();

        const auto scores = request.get_tensor("scores"), boxes = request.get_tensor("boxes");
        const auto labels = request.get_tensor("labels");
        print_detections(scores.get_size(), scores.data<float>(), boxes.data<float>(), labels.data<int64_t>(), names,
                         threshold);
    } catch (const std::exception& error) {
        std::cerr << "detect_openvino: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
