// What the samples share and your program has already: a picture, the names of the classes, and a way to print.
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

struct Picture {
    size_t width = 0, height = 0;
    std::vector<uint8_t> pixels;  // RGB, row by row
};

// Reads binary PPM ("P6", 8 bits), which needs no library; replace it by the image library of your program.
inline Picture read_ppm(const std::string& path) {
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

// Reads the score above which detections are printed: 0 to 1 with a decimal point, whatever the locale.
inline float read_threshold(const std::string& text) {
    std::istringstream stream(text);
    stream.imbue(std::locale::classic());
    float value = -1;
    if (!(stream >> value) || stream.peek() != std::char_traits<char>::eof() || !(value >= 0 && value <= 1))
        throw std::runtime_error("expected a threshold from 0 to 1, such as 0.5, got \"" + text + "\"");
    return value;
}

// Class names by label, from the JSON text that describes the model: {"names": ["person", ...], ...}.
inline std::vector<std::string> class_names(const std::string& json) {
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

// Prints the detections above a threshold. The best come first; those that non-maximum suppression in the graph
// removed have the score 0 and stay in their places. Boxes: x1 y1 x2 y2 in pixels of the picture.
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
