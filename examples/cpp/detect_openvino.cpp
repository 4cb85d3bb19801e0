// Detects objects in a picture with an RT-DETR model in OpenVINO's format.
//
//     rtdetr export MODEL --format openvino --output model.xml
//     detect_openvino model.xml picture.ppm [threshold]
//
// Prints one line an object: score, box (x1 y1 x2 y2, pixels of the picture), label and class name.
//
// Preprocessing, all of it: RGB, 8 bits; stretched to the network's size without keeping the aspect ratio, bilinear
// with antialiasing (what Pillow calls BILINEAR), rounded to 8 bits; divided by 255; no mean or deviation subtracted.
// Here OpenVINO does it inside the graph, so that the program only hands over the pixels.
#include <openvino/openvino.hpp>

#include "detections.hpp"

int main(int count, char** arguments) {
    if (count < 3) {
        std::cerr << "usage: detect_openvino model.xml picture.ppm [threshold]\n";
        return 2;
    }
    try {
        const Picture picture = read_ppm(arguments[2]);
        const float threshold = count > 3 ? read_threshold(arguments[3]) : 0.5f;

        ov::Core core;
        auto model = core.read_model(arguments[1]);
        std::vector<std::string> names;
        if (model->has_rt_info("rtdetr")) names = class_names(model->get_rt_info<std::string>("rtdetr"));

        ov::preprocess::PrePostProcessor steps(model);
        auto& images = steps.input("images");
        images.tensor().set_element_type(ov::element::u8).set_layout("NHWC").set_spatial_static_shape(
            picture.height, picture.width);
        images.model().set_layout("NCHW");
        images.preprocess()
            .resize(ov::preprocess::ResizeAlgorithm::RESIZE_BILINEAR_PILLOW)
            .convert_element_type(ov::element::f32)
            .scale(255.0f);
        model = steps.build();
        // in the type that the model was verified in; "bf16" is faster on CPUs with AMX
        auto request = core.compile_model(model, "CPU", ov::hint::inference_precision("f32")).create_infer_request();

        const ov::Tensor pixels(ov::element::u8, {1, picture.height, picture.width, 3},
                                const_cast<uint8_t*>(picture.pixels.data()));
        int64_t size_wh[] = {int64_t(picture.width), int64_t(picture.height)};
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
