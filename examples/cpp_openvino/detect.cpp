// Detects objects in a picture with an RT-DETR model in OpenVINO's format.
//
//     rtdetr export MODEL --format openvino --output model.xml
//     detect model.xml picture.ppm [threshold]
//
// Prints one line an object: score, box (x1 y1 x2 y2, pixels of the picture), label and class name.
//
// Preprocessing, all of it: RGB, 8 bits; stretched to the network's size without keeping the aspect ratio, bilinear
// with antialiasing (what Pillow calls BILINEAR), rounded to 8 bits; divided by 255; no mean or deviation subtracted.
// Here OpenVINO does it inside the graph, so that the program only hands over the pixels.
#include <algorithm>
#include <fstream>
#include <iostream>
#include <openvino/openvino.hpp>
#include <stdexcept>
#include <string>
#include <vector>

struct Picture {
    size_t width = 0, height = 0;
    std::vector<uint8_t> pixels;  // RGB, row by row
};

// Reads binary PPM ("P6", 8 bits), which needs no library; replace it by the image library of your program.
Picture read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    auto number = [&file]() {
        while (std::isspace(file.peek()) || file.peek() == '#') {
            if (file.get() == '#') file.ignore(1 << 20, '\n');
        }
        size_t value = 0;
        file >> value;
        return value;
    };
    std::string magic(2, ' ');
    file.read(magic.data(), 2);
    Picture picture;
    picture.width = number(), picture.height = number();
    const size_t deepest = number();
    file.get();  // the single space before the pixels
    if (!file || magic != "P6" || deepest != 255 || picture.width == 0 || picture.width > 65535 ||
        picture.height == 0 || picture.height > 65535)
        throw std::runtime_error(path + ": expected a binary PPM picture (P6) of 8 bits");
    picture.pixels.resize(picture.width * picture.height * 3);
    file.read(reinterpret_cast<char*>(picture.pixels.data()), picture.pixels.size());
    if (!file) throw std::runtime_error(path + ": the picture ends too early");
    return picture;
}

// Class names by label, from the JSON text that describes the model: {"names": ["person", ...], ...}.
std::vector<std::string> class_names(const std::string& json) {
    std::vector<std::string> names;
    size_t place = json.find("\"names\": [");
    if (place == std::string::npos) return names;
    for (place += 10; place < json.size() && json[place] != ']'; ++place) {
        if (json[place] != '"') continue;
        std::string name;
        while (++place < json.size() && json[place] != '"') {
            if (json[place] == '\\') ++place;
            name += json[place];
        }
        names.push_back(name);
    }
    return names;
}

int main(int count, char** arguments) {
    if (count < 3) {
        std::cerr << "usage: detect model.xml picture.ppm [threshold]\n";
        return 2;
    }
    try {
        const Picture picture = read_ppm(arguments[2]);
        const float threshold = count > 3 ? std::stof(arguments[3]) : 0.5f;

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
        for (size_t i = 0; i < scores.get_size(); ++i) {  // the best come first
            const float score = scores.data<float>()[i];
            if (score <= threshold) break;
            const float* box = boxes.data<float>() + 4 * i;
            const size_t label = labels.data<int64_t>()[i];
            std::cout << score << ' ' << box[0] << ' ' << box[1] << ' ' << box[2] << ' ' << box[3] << ' ' << label
                      << ' ' << (label < names.size() ? names[label] : "?") << '\n';
        }
    } catch (const std::exception& error) {
        std::cerr << "detect: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
