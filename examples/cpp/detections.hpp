// Code shared by the samples that your program has already: read an image, get class names, print detections.
#pragma once

#include <cctype>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

struct Image {
    size_t width = 0, height = 0;
    std::vector<uint8_t> pixels;  // RGB, row by row
};

// Read a binary PPM ("P6", 8 bits), which needs no library; replace this with the image library of your program.
inline Image read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path + ": cannot be opened");
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
    Image image;
    image.width = number(), image.height = number();
    const size_t max_value = number();
    file.get();  // the single space before the pixels
    if (!file || magic != "P6" || max_value != 255 || image.width == 0 || image.width > 65535 ||
        image.height == 0 || image.height > 65535)
        throw std::runtime_error(path + ": expected a binary 8-bit PPM image (P6)");
    image.pixels.resize(image.width * image.height * 3);
    file.read(reinterpret_cast<char*>(image.pixels.data()), image.pixels.size());
    if (!file) throw std::runtime_error(path + ": the image is truncated");
    return image;
}

// Read the score threshold: 0 to 1 with a decimal point, independent of the locale.
inline float read_threshold(const std::string& text) {
    std::istringstream stream(text);
    stream.imbue(std::locale::classic());
    float value = -1;
    if (!(stream >> value) || stream.peek() != std::char_traits<char>::eof() || !(value >= 0 && value <= 1))
        throw std::runtime_error("expected a threshold from 0 to 1, such as 0.5, got \"" + text + "\"");
    return value;
}

// Class names by label, from the JSON description of the model: {"names": ["person", ...], ...}.
inline std::vector<std::string> class_names(const std::string& json) {
    std::vector<std::string> names;
    size_t position = json.find("\"names\": [");
    if (position == std::string::npos) return names;
    for (position += 10; position < json.size() && json[position] != ']'; ++position) {
        if (json[position] != '"') continue;
        std::string name;
        while (++position < json.size() && json[position] != '"') {
            if (json[position] == '\\') ++position;
            name += json[position];
        }
        names.push_back(name);
    }
    return names;
}

// Print detections above a threshold, best first. Detections removed by NMS in the graph keep their position and have
// score 0. Boxes: x1 y1 x2 y2 in pixels of the image.
inline void print_detections(size_t count, const float* scores, const float* boxes, const int64_t* labels,
                             const std::vector<std::string>& names, float threshold) {
    for (size_t i = 0; i < count; ++i) {
        if (scores[i] <= threshold) continue;
        const float* box = boxes + 4 * i;
        const size_t label = labels[i];
        std::cout << scores[i] << ' ' << box[0] << ' ' << box[1] << ' ' << box[2] << ' ' << box[3] << ' ' << label
                  << ' ' << (label < names.size() ? names[label] : "?") << '\n';
    }
}
